"""Cubes of labelled cutouts, and their division into training, validation and test sets."""
