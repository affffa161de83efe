"""The best candidates of an image as science, reference and difference stamps.

Drawn by Pillow: Matplotlib would cost a search more than all else that it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PANELS = ("science", "reference", "difference")
COLUMNS = 4  # candidates side by side
STAMP = 96  # side of a stamp [px], about
LINE, GAP = 16, 8  # height of a line of text, and space between candidates [px]


def draw_stamps(
    table: Mapping[str, np.ndarray], stamps: np.ndarray, *, channels: Sequence[str], n: int = 24, title: str = ""
) -> Image:
    """Draw the first candidates of a table, three stamps each.

    Parameters
    ----------
    table : mapping of arrays
        ``candid``, ``probability``, ``mag``, ``snr``, ``undecided``, ``reason``, each (N,), best first.
    stamps : numpy.ndarray
        (N, S, S, C), NaN where missing.
    channels : sequence of str
        Of the last axis; science, reference and difference are drawn where they are there.
    n : int
        Candidates drawn at most.

    Returns
    -------
    PIL.Image.Image
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = min(n, len(stamps))
    named = [name for name in PANELS if name in channels]
    strips = [strip([stamps[k, :, :, list(channels).index(name)] for name in named]) for k in range(shown)]
    wide = max([240, *(part.width for part in strips)]) + GAP
    high = max([0, *(part.height for part in strips)]) + 2 * LINE + GAP
    columns, rows = min(COLUMNS, max(1, shown)), -(-shown // COLUMNS)
    picture = Image.new("L", (columns * wide + GAP, rows * high + 3 * LINE), 255)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    pen.text((GAP, 2), title or f"{shown} candidates of highest probability", fill=0, font=ImageFont.load_default(13))
    pen.text((GAP, LINE + 6), ", ".join(named) + ", from left to right", fill=90, font=font)
    for k, part in enumerate(strips):
        x, y = GAP + k % COLUMNS * wide, 3 * LINE + k // COLUMNS * high
        for number, line in enumerate(words(table, k)):
            pen.text((x, y + number * LINE), line, fill=0, font=font)
        picture.paste(part, (x, y + 2 * LINE))
    return picture


def strip(planes: Sequence[np.ndarray]) -> Image:
    """Stamps side by side, first row below, enlarged by a whole number."""
    from PIL import Image

    gap = np.full((planes[0].shape[0], 1), 255, np.uint8)
    joined = np.hstack([part for plane in planes for part in (_grey(plane), gap)][:-1])[::-1]
    times = max(1, round(STAMP / planes[0].shape[0]))
    return Image.fromarray(joined).resize((times * joined.shape[1], times * joined.shape[0]), Image.Resampling.NEAREST)


def words(table: Mapping[str, np.ndarray], k: int) -> tuple[str, str]:
    """Two lines on a candidate: its name, and its numbers."""
    mag, snr = float(table["mag"][k]), float(table["snr"][k])
    text = f"p {float(table['probability'][k]):.3f}, S/N {snr:.1f}"
    text += f", {mag:.2f} mag" if np.isfinite(mag) else ""
    text += ", undecided" if table["undecided"][k] else ""
    return str(table["candid"][k]), text + (", unlike training" if table["reason"][k] else "")


def _grey(plane: np.ndarray) -> np.ndarray:
    """uint8, from the 1st percentile (black) to the 99.5th (white); missing pixels are mid grey."""
    known = np.isfinite(plane)
    if not known.any():
        return np.full(plane.shape, 128, np.uint8)
    low, high = np.percentile(plane[known], (1, 99.5))
    scaled = 255 * (np.where(known, plane, low) - low) / max(high - low, 1e-12)
    return np.where(known, np.clip(scaled, 0, 255), 128).astype(np.uint8)
