"""Stars and known objects of a field: from local files or from network services."""

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
    """Write the star catalogue and the known objects of the field of an image; without a source a table has no rows.

    Parameters
    ----------
    science : path-like
    catalogue, known : path-like
        What is written (CSV).
    image : str
    detector : Detector
        Its extension holds the image.
    wcs : path-like or None
        FITS header with the WCS, for images that have none.
    source : str or None
        See `star_catalogue`.
    known_source : str or None
        See `known_objects`.
    cache : path-like
        Folder where answers of the network are kept.

    Raises
    ------
    ImageError
        The image has no WCS and a source is given (key ``WCS``), or nothing is listed in the field.
    ConfigError
        A file is wrong, or a service gives no answer.
    """
    data, header = read_fits(science, image=image, extension=detector.extension)
    stars, objects = empty(COLUMNS), empty(KNOWN_COLUMNS)
    if source or known_source:
        solution = image_wcs(header, wcs, image=image)
        if solution is None:
            raise ImageError(
                image, "WCS", "a star catalogue or known objects need a celestial WCS; give one (column wcs)"
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
        Folder where answers of the network are kept.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`; brightest first, rows without magnitude last.

    Raises
    ------
    ConfigError
        The file is wrong, or the service gives no answer.
    ImageError
        Nothing is listed in the field.
    """
    from otrain_core.sky.services import STAR_SURVEYS

    if source in STAR_SURVEYS:
        table = STAR_SURVEYS[source](field, cache=cache)
    else:
        table = read_local(source, key="catalogue", columns=COLUMNS)
    inside = table[field.holds(table.ra.to_numpy(), table.dec.to_numpy())]
    if len(inside) == 0:
        raise ImageError(
            field.image, "catalogue", f"{source} lists nothing in the {field} (of {len(table)} entries in all)"
        )
    return inside.sort_values("mag", ignore_index=True, kind="stable")[COLUMNS]


def known_objects(source: str, field: Field, *, cache: str | Path) -> pd.DataFrame:
    """Known variables and moving objects of a field.

    Parameters
    ----------
    source : str
        ``vsx`` (VizieR), ``skybot``, ``skybot:CODE`` with the IAU code of the observatory, or paths of
        CSV files, joined by +.
    field : Field
        With a time, where SkyBoT is asked.
    cache : path-like
        Folder where answers of the network are kept.

    Returns
    -------
    pandas.DataFrame
        `KNOWN_COLUMNS`, in the order of the sources; often without rows.

    Raises
    ------
    ConfigError
        A file is wrong, or a service gives no answer.
    ImageError
        SkyBoT is asked and the image has no time.
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
