"""Sources above a threshold by sep, whose buffer of pixels grows only where it must."""

from __future__ import annotations

from typing import Any

import numpy as np

USUAL = 300_000  # pixels: sep reserves its buffer, some 60 bytes a pixel, at every call


def extract(data: np.ndarray, threshold: float, *, most: int, **options: Any) -> Any:
    """`sep.extract` with a buffer of `USUAL` pixels, and where that overflows of `most`.

    Parameters
    ----------
    data : numpy.ndarray
        float32 (height, width)
    threshold : float
    most : int
        Pixels above the threshold that an image may have.
    **options
        Of `sep.extract`.

    Raises
    ------
    Exception
        A bare one, as sep raises it: a buffer overflowed.
    """
    import sep

    for size in sorted({min(USUAL, most), most}):
        sep.set_extract_pixstack(size)
        try:
            return sep.extract(data, threshold, **options)
        except Exception as failure:
            if size == most or "pixel buffer full" not in str(failure):
                raise
    raise AssertionError("not reached")
