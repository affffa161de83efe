"""O'TRAIN: a real/bogus classifier for the candidates of any optical telescope.

Conventions of the whole library
--------------------------------
* Pixels are 0-based and an integer coordinate is the centre of a pixel.
* Arrays are indexed ``[y, x]``; tables have columns ``x`` and ``y``.
* difference = science - reference, in ADU of the science image.
* A missing value is NaN (never -99 or 99).
* Magnitudes are ``zero_point - 2.5 log10(flux in ADU)``.
* Random numbers come from a ``numpy.random.Generator`` that the caller hands in.
"""

__version__ = "0.1.0"
