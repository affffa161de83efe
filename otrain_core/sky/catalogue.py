"""Stars and known objects of a field: from local files, from the simulator, or from network services."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, Field, empty, read_local

SURVEY_BELOW_LIMIT = 1.0  # a survey is complete to so many magnitudes below the 5-sigma limit of the image
SURVEY_POSITION_ERROR = 0.05  # of either coordinate [arcsec]
SURVEY_MAG_ERROR = 0.02
SURVEY_COLOR_ERROR = 0.03


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
            table = services.moving_objects(field, cache=cache, **({"location": code} if code else {}))
        else:
            table = read_local(name.strip(), key="known", columns=KNOWN_COLUMNS)
            table["kind"] = table.kind.where(table.kind != "", "variable")
        tables.append(table[field.holds(table.ra.to_numpy(), table.dec.to_numpy())])
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)[KNOWN_COLUMNS]
