"""What was found in an archive, night by night (step `nights`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from otrain_core.io import read_json, write_table

# What the table of images says of each; the rest of the record of a search stays in its own file.
KEPT = ("image", "night", "n", "real", "undecided", "unlike_training", "seeing_px", "limit_mag", "filter", "time")


def nights_files(*, records: Sequence[str | Path], nights: str | Path, images: str | Path) -> None:
    """Write what was found, night by night, and a row for each image (CSV).

    Parameters
    ----------
    records : sequence of path-like
        Of the jobs.
    nights : path-like
        night, images, candidates, real, undecided, seeing_px, limit_mag (medians); a copy of an image does not count.
    images : path-like
        path, status (done, refused, gone), reason, digest, and `KEPT`.
    """
    rows = [item for path in records for item in read_json(path)["images"]]
    columns = ("path", "status", "reason", "digest", *KEPT)
    table = pd.DataFrame([{key: row.get(key) for key in columns} for row in rows], columns=columns)
    write_table(images, table)
    done = table[table["status"] == "done"].drop_duplicates("digest")
    counts = done.astype(dict.fromkeys(("n", "real", "undecided", "seeing_px", "limit_mag"), float)).groupby("night")
    summary = counts.agg(
        images=("digest", "size"),
        candidates=("n", "sum"),
        real=("real", "sum"),
        undecided=("undecided", "sum"),
        seeing_px=("seeing_px", "median"),
        limit_mag=("limit_mag", "median"),
    )
    summary = summary.astype(dict.fromkeys(("candidates", "real", "undecided"), int))
    write_table(nights, summary.reset_index())
