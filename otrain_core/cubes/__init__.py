"""Cutouts with labels, dealt into sets. Imports the ground floor, plan and stars."""
