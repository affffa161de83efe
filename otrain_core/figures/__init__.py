"""Plots from arrays."""
