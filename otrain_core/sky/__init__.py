"""Simulated images, star catalogues and reference images."""
