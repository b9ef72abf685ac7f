"""The aggregates a declaration may use; each class owns all of itself: types it takes, blocks of its state, its finish."""
