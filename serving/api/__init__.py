"""The REST API: its routes, its endpoints, and the state that they answer from."""
