"""Kinds of places of injected sources, and kinds of real stars."""

from __future__ import annotations

REAL_KINDS = ("removed", "transplanted")  # real stars; every other kind is injected


INJECTED_KINDS = ("random", "galaxy", "star")
