"""Partial results that merge: blocks of float64 columns, extras of bytes, sketches. Pure numpy and SQL text."""
