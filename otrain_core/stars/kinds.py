"""Kinds of real stars that serve as sources; every other kind of a True is injected."""

from __future__ import annotations

# Taken out of the reference; set down elsewhere in the science image; taken out of the science image, so that they fade.
REAL_KINDS = ("removed", "transplanted", "vanished")
STAMP_RADIUS = 4.0  # of a transplanted star, whose stamp brings faint neighbours along [FWHM]
