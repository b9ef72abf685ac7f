"""A cache that servers share: an Ignite node."""
