"""Training sets, training, and everything that is recorded of it."""
