"""Scores that mean what they say: calibrated scores of classes, intervals of numbers."""
