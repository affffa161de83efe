"""Kinds of real stars that serve as sources; every other kind of a True is injected."""

from __future__ import annotations

REAL_KINDS = ("removed", "transplanted")
