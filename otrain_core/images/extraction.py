"""Source extraction by sep with a buffer of pixels that grows only if it overflows."""

from __future__ import annotations

from typing import Any

import numpy as np

USUAL = 300_000  # pixels; sep allocates the buffer, about 60 bytes per pixel, in every call


def extract(data: np.ndarray, threshold: float, *, most: int, **options: Any) -> Any:
    """Call `sep.extract` with a buffer of `USUAL` pixels, and again with `most` if that overflows.

    Parameters
    ----------
    data : numpy.ndarray
        float32 (height, width)
    threshold : float
        As in `sep.extract`.
    most : int
        Largest number of pixels above the threshold.
    **options
        Passed to `sep.extract`.

    Returns
    -------
    numpy.ndarray or tuple
        The result of `sep.extract`.

    Raises
    ------
    Exception
        A buffer of sep overflowed (sep raises no more specific exception).
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
