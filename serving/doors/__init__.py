"""Protocols of others that ask for the same scores: MLflow's scoring server, Open Inference Protocol."""
