"""Runs and registered models in MLflow; no other part of the package imports MLflow."""
