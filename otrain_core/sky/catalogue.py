"""Star catalogue and known objects of a field, from local files or network services."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import image_wcs
from otrain_core.io import write_table
from otrain_core.plan.telescopes import Detector
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, Field, empty, field_of, read_local


def catalogue_files(
    *,
    science: str | Path,
    catalogue: str | Path,
    known: str | Path,
    image: str,
    detector: Detector,
    wcs: str | Path | None,
    source: str | None,
    known_source: str | None,
    cache: str | Path,
) -> None:
    """Write the star catalogue and the known objects in the field of an image.

    Parameters
    ----------
    science : path-like
    catalogue, known : path-like
        Files to write (CSV).
    image : str
        Name of the image, for errors.
    detector : Detector
        Names the extension of the image and the keyword of the time.
    wcs : path-like or None
        FITS header with the WCS, for an image without one.
    source : str or None
        See `star_catalogue`; None writes a table without rows.
    known_source : str or None
        See `known_objects`; None writes a table without rows.
    cache : path-like
        Folder of the cached answers of network services.

    Raises
    ------
    ImageError
        A source is given and the image has no WCS, or the catalogue has no star in the field.
    ConfigError
        A file is wrong, or a service does not answer.
    """
    data, header = read_fits(science, image=image, extension=detector.extension)
    stars, objects = empty(COLUMNS), empty(KNOWN_COLUMNS)
    if source or known_source:
        solution = image_wcs(header, wcs, image=image)
        if solution is None:
            raise ImageError(
                image,
                "WCS",
                "a star catalogue or a list of known objects needs a celestial WCS; name a WCS file in the column wcs of "
                "the sheet",
            )
        field = field_of(solution, data.shape, image=image, header=header, time_key=detector.header.get("time"))
        if source:
            stars = star_catalogue(source, field, cache=cache)
        if known_source:
            objects = known_objects(known_source, field, cache=cache)
    write_table(catalogue, stars)
    write_table(known, objects)


def star_catalogue(source: str, field: Field, *, cache: str | Path) -> pd.DataFrame:
    """Star catalogue of a field.

    Parameters
    ----------
    source : str
        ``gaia``, ``panstarrs`` (VizieR) or the path of a CSV file.
    field : Field
    cache : path-like
        Folder of the cached answers of network services.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`; brightest first, rows without magnitude last.

    Raises
    ------
    ConfigError
        The file is wrong, or the service does not answer.
    ImageError
        The catalogue has no star in the field.
    """
    from otrain_core.sky.services import STAR_SURVEYS

    if source in STAR_SURVEYS:
        table = STAR_SURVEYS[source](field, cache=cache)
    else:
        table = read_local(source, key="catalogue", columns=COLUMNS)
    inside = table[field.holds(table.ra.to_numpy(), table.dec.to_numpy())]
    if len(inside) == 0:
        raise ImageError(
            field.image, "catalogue", f"{source} has no entry in the {field} ({len(table)} entries in total)"
        )
    return inside.sort_values("mag", ignore_index=True, kind="stable")[COLUMNS]


def known_objects(source: str, field: Field, *, cache: str | Path) -> pd.DataFrame:
    """Known variables and moving objects of a field.

    Parameters
    ----------
    source : str
        One or more of ``vsx`` (VizieR), ``skybot``, ``skybot:CODE`` with the IAU code of the observatory, and paths
        of CSV files, joined by +.
    field : Field
        SkyBoT needs its time.
    cache : path-like
        Folder of the cached answers of network services.

    Returns
    -------
    pandas.DataFrame
        `KNOWN_COLUMNS`, in the order of the sources; often without rows.

    Raises
    ------
    ConfigError
        A file is wrong, or a service does not answer.
    ImageError
        SkyBoT is queried and the image has no time.
    """
    from otrain_core.sky import services

    tables = [empty(KNOWN_COLUMNS)]
    for name in source.split("+"):
        service, _, code = name.strip().partition(":")
        if service == "vsx":
            table = services.variables(field, cache=cache)
        elif service == "skybot":
            table = services.moving_objects(field, cache=cache, location=code or services.EARTH)
        else:
            table = read_local(name.strip(), key="known", columns=KNOWN_COLUMNS)
            table["kind"] = table.kind.where(table.kind != "", "variable")
        tables.append(table[field.holds(table.ra.to_numpy(), table.dec.to_numpy())])
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)[KNOWN_COLUMNS]
