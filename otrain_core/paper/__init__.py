"""Reproduction of the paper: its figures, tables and claims."""
