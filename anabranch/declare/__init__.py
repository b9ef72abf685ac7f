"""What an author declares: sources, views, labels, models, projects. Frozen, and checked when constructed."""
