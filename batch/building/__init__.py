"""Batch versions: what a build keeps, how a version is validated, and how served values are verified."""
