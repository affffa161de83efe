"""The only wing that imports MLflow: runs and registered models."""
