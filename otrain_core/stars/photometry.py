"""Zero point and colour term of an image from a star catalogue, by STDPipe."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.wcs import pixel_to_sky
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.astrometry import find_objects, require_wcs, star_table
from otrain_core.widths import mad_sigma

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

    from otrain_core.stars.psf_model import PSFModel

DEFAULTS = PsfOptions()
MIN_STARS = 5  # least number of stars, below which the image is refused
COLOR_STARS = 10  # least number of stars of known colour for a colour term
MAX_SCATTER = 0.1  # largest intrinsic scatter of the stars, due to variability and the flat field [mag]


def photometric_solution(
    image: Image,
    catalogue: pd.DataFrame | None,
    *,
    model: PSFModel,
    options: PsfOptions = DEFAULTS,
    objects: Table | None = None,
) -> dict[str, Any]:
    """Measure the zero point and colour term of an image.

    Fluxes in apertures with a radius of 2 FWHM are corrected to total fluxes with the fraction of
    the PSF in the aperture, so that the zero point is that of PSF photometry. The fit is
    `stdpipe.pipeline.calibrate_photometry`. It rejects stars that are off by more than five times
    their errors, which include an intrinsic scatter of up to 0.1 mag.

    Parameters
    ----------
    image : Image
        With the WCS to be used.
    catalogue : pandas.DataFrame
        Stars of the field: ``ra``, ``dec`` [deg], ``mag``, ``magerr``, ``color`` (g - r), ``kind``.
    model : PSFModel
    options : PsfOptions
        `match_radius` is used.
    objects : astropy.table.Table, optional
        Result of `otrain_core.stars.astrometry.find_objects`, if already known.

    Returns
    -------
    dict
        ``zero_point`` (magnitude of 1 ADU at g - r = 0), ``zero_point_err``, ``color_term``
        (mag = -2.5 log10(flux) + zero_point + color_term (g - r); NaN if it was not fitted),
        ``n_stars`` (used in the fit), ``scatter`` (robust, about the fit [mag]), ``aperture_share``
        (median fraction of the flux in the aperture).

    Raises
    ------
    ImageError
        No WCS (key ``WCS``), no catalogue (key ``catalogue``), or too few stars (key ``photometry``).
    """
    from astropy.table import Table
    from stdpipe.pipeline import calibrate_photometry

    require_wcs(image)
    stars = star_table(image, catalogue)
    objects = find_objects(image, fwhm=model.fwhm) if objects is None else objects
    share = _aperture_shares(model, objects["x"], objects["y"], 2 * model.fwhm)
    table = Table({key: np.asarray(objects[key]) for key in ("x", "y", "magerr", "flags")})
    table["ra"], table["dec"] = pixel_to_sky(image.wcs, objects["x"], objects["y"])
    table["mag"] = -2.5 * np.log10(np.maximum(objects["flux"], 1e-9) / share)
    radius = options.match_radius * image.pixel_scale / 3600
    with_color = np.isfinite(stars["g"] - stars["r"])
    for color in (True, False):
        chosen = stars[with_color] if color else stars
        if len(chosen) < (COLOR_STARS if color else MIN_STARS) or len(table) == 0:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solution = calibrate_photometry(
                table,
                chosen,
                sr=radius,
                cat_col_mag="mag",
                cat_col_mag_err="magerr",
                cat_col_mag1="g" if color else None,
                cat_col_mag2="r" if color else None,
                max_intrinsic_rms=MAX_SCATTER,
                robust=False,  # STDPipe's robust fit fails with statsmodels 0.15; outliers are clipped in any case
                update=False,
            )
        used = int(np.sum(solution["idx"])) if solution else 0
        if used >= (COLOR_STARS if color else MIN_STARS):
            return _record(solution, used, color, share)
    raise ImageError(
        image.name,
        "photometry",
        f"too few stars for a zero point: of {len(table)} sources and {len(stars)} catalogue stars, fewer than "
        f"{MIN_STARS} match",
    )


def _record(solution: dict[str, Any], used: int, color: bool, share: np.ndarray) -> dict[str, Any]:
    """The result of `photometric_solution` from a solution of STDPipe."""
    left = (solution["zero"] - solution["zero_model"])[solution["idx"]]
    return {
        "zero_point": float(solution["zero_fn"](None, None)[0]),
        "zero_point_err": float(solution["zero_fn"](None, None, get_err=True)[0]),
        "color_term": float(np.ravel(solution["color_term"])[0]) if color else np.nan,
        "n_stars": used,
        "scatter": float(mad_sigma(left)),
        "aperture_share": float(np.median(share)),
    }


def _aperture_shares(model: PSFModel, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Fraction of the flux of stars at x, y [px] within `radius` [px], interpolated on a grid of 5 x 5 positions."""
    import sep
    from scipy.interpolate import RegularGridInterpolator

    height, width = model.shape
    nodes_y, nodes_x = np.linspace(0, height - 1, 5), np.linspace(0, width - 1, 5)
    centre = np.array([float(model.radius)])
    shares = [
        [sep.sum_circle(np.ascontiguousarray(model.at(u, v)), centre, centre, radius)[0][0] for u in nodes_x]
        for v in nodes_y
    ]
    at = np.column_stack([np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)])
    return RegularGridInterpolator((nodes_y, nodes_x), np.array(shares))(at)
