"""Write the results of the search of one image: tables, record and pictures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.arrays import write_arrays
from otrain_core.candidates.cutouts import CHANNELS
from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.cubes.cube_format import CUBE_COLUMNS
from otrain_core.evaluation.words import decisions
from otrain_core.figures.stamps import PANELS, draw_stamps, strip
from otrain_core.io import atomic, write_json
from otrain_core.night.search import COLUMNS, Search

if TYPE_CHECKING:
    from astropy.table import Table


def write_search(folder: Path, name: str, found: Search, *, gallery: int) -> None:
    """Write NAME.ecsv, NAME.fits, NAME.json and, if there are candidates, NAME.png.

    Parameters
    ----------
    folder : Path
    name : str
        Name of the image.
    found : Search
    gallery : int
        Number of candidates in the picture, 0 for no picture.
    """
    write_tables(folder, name, as_table(found))
    write_json(folder / f"{name}.json", found.record)
    if gallery and len(found.stamps):
        title = f"{name}: {decisions(found.record)}"
        picture = draw_stamps(found.table, found.stamps, channels=CHANNELS, n=gallery, title=title)
        with atomic(folder / f"{name}.png") as temporary:
            picture.save(temporary, format="PNG")


def write_tables(folder: Path, name: str, table: Table) -> None:
    """Write NAME.ecsv and NAME.fits."""
    with atomic(folder / f"{name}.ecsv") as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)
    plain = table.copy(copy_data=False)  # a FITS header can hold ASCII only
    plain.meta = {key: str(value).encode("ascii", "backslashreplace").decode() for key, value in table.meta.items()}
    with atomic(folder / f"{name}.fits") as temporary:
        plain.write(temporary, format="fits", overwrite=True)


def as_table(found: Search) -> Table:
    """The candidates as an astropy Table with units and descriptions."""
    from astropy.table import Column, Table

    columns = []
    for name, (unit, description) in COLUMNS.items():
        values = np.asarray(found.table[name])
        values = values.astype(str) if values.dtype.kind in "OUS" else values
        columns.append(Column(values, name=name, unit=unit or None, description=description))
    table = Table(columns)
    table.meta = {"image": found.record["image"], "science": found.record["science"]}
    return table


def write_scores(path: str | Path, found: Search) -> None:
    """Write the scores and descriptors of the candidates as `otrain classify` does, for `otrain monitor`."""
    names = ("candid", "image", "edge", "score", "probability", *DESCRIPTORS)
    columns = [found.table[name] if name in found.table else found.described[name] for name in names]
    with atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*(_cells(values) for values in columns), strict=True))


def _cells(values: np.ndarray) -> list[Any]:
    if values.dtype.kind != "f":
        return values.tolist()
    return ["" if np.isnan(value) else f"{value:.9g}" for value in values]


def write_cutouts(path: str | Path, found: Search, *, n: int) -> None:
    """Write the first `n` candidates as a cube without labels, which `otrain label serve` shows."""
    if not len(found.stamps):
        return
    cube: dict[str, Any] = {"cube": found.stamps[:n], "channels": np.array(CHANNELS)}
    for key, column in CUBE_COLUMNS.items():
        if column in found.table and key != "reasons":  # these explain labels, and there are none
            values = np.asarray(found.table[column][:n])
            cube[key] = values.astype("U") if values.dtype.kind in "OUS" else values
    rows = len(cube["cube"])
    cube |= {"labels": np.zeros(rows, np.uint8), "kinds": np.full(rows, "")}
    for key, name in (("seeing", "seeing_px"), ("pixel_scale", "pixel_scale")):
        cube[key] = np.full(rows, found.record.get(name) or np.nan)
    write_arrays(path, cube | {key: np.array(str(found.record.get(key) or "")) for key in ("telescope", "pipeline")})


def write_stamps(folder: str | Path, found: Search, *, n: int) -> None:
    """Write science, reference and difference of the first `n` candidates side by side, one PNG each."""
    for name, stamp in zip(found.table["candid"][:n], found.stamps, strict=False):
        picture = strip([stamp[:, :, CHANNELS.index(channel)] for channel in PANELS])
        with atomic(Path(folder, f"{name}.png")) as temporary:
            picture.save(temporary, format="PNG")
