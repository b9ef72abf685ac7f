"""The embedded servers: how each is configured, started and known to be ready."""
