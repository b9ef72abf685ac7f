"""Contributions of features to a score, computed from what a version keeps as data."""
