"""Where an answer comes from: its views, their windows, and the very events."""
