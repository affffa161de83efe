"""Kinds of real stars that are used as new or fading sources; all other kinds of True candidates are injected."""

from __future__ import annotations

# Subtracted from the reference (new sources); copied to another place of the science image (new sources); subtracted from
# the science image (fading sources).
REAL_KINDS = ("removed", "transplanted", "vanished")
STAMP_RADIUS = 4.0  # radius of the stamp of a transplanted star, which may include faint neighbours [FWHM]
