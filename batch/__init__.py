"""Slow and right: landing, batch views over the whole lake, training, mass scoring."""
