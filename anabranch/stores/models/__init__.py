"""The model registry: MLflow's versions, roles and files."""
