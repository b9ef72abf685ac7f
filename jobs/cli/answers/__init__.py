"""Questions to what is served."""
