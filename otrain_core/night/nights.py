"""Summarize the search of an archive night by night (step `nights`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from otrain_core.io import read_json, write_table

# Values of a search that are copied to the table of images; the others stay in the record of the image.
KEPT = ("image", "night", "n", "real", "undecided", "unlike_training", "seeing_px", "limit_mag", "filter", "time")


def nights_files(*, records: Sequence[str | Path], nights: str | Path, images: str | Path) -> None:
    """Write a table of the nights and a table of the images (CSV).

    Parameters
    ----------
    records : sequence of path-like
        Records of the jobs, see `otrain_core.night.archive.archive_files`.
    nights : path-like
        night, images, candidates, real, undecided, seeing_px and limit_mag (medians); copies of an image count once.
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
