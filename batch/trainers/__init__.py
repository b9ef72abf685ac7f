"""Ways to learn a model: each trainer is one module, registered by name in registry.py."""
