"""Mergeable partial results: blocks of float64 columns, extras of bytes, sketches."""
