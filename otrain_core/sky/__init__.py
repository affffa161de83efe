"""Simulated sky, catalogues and references. Imports the ground floor, plan, images and stars."""
