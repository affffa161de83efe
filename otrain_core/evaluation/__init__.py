"""Metrics and tables from scores, without TensorFlow. Imports the ground floor, plan and cubes."""
