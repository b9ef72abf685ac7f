"""Aggregates. Each class defines the types it takes, the blocks of its state, and the value of a state."""
