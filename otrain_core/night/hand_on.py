"""Keep the results of one image of a night: ledger, tables, alert packets and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.io import plain_values
from otrain_core.night.alerts import write_alerts
from otrain_core.night.context import add_night_context, detections_of, is_fixed, update_tables
from otrain_core.night.ledger import Ledger
from otrain_core.night.outputs import write_search
from otrain_core.night.reports import SkyPortalReport, TnsReport, read_report, write_report
from otrain_core.night.search import Search

RADIUS = 1.0  # detections within this distance are one object [FWHM]


@dataclass(frozen=True)
class HandOn:
    """Which alert packets and reports are written; none by default.

    Attributes
    ----------
    alerts : Path or None
        Folder for Avro packets.
    service : str
        tns or skyportal; empty for no report.
    about : TnsReport or SkyPortalReport or None
        Who reports.
    model : str
        Name of the classifier in the packets.
    """

    alerts: Path | None = None
    service: str = ""
    about: TnsReport | SkyPortalReport | None = None
    model: str = ""

    @classmethod
    def choose(cls, *, alerts: str | None, service: str | None, about: str | None, model: Mapping[str, Any]) -> HandOn:
        """The choice made by the arguments of the command.

        Parameters
        ----------
        alerts : str or None
            Folder for Avro packets.
        service : str or None
            tns or skyportal.
        about : str or None
            YAML file that says who reports.
        model : mapping
            `Classifier.about`.

        Raises
        ------
        ConfigError
            The file that says who reports is missing or wrong.
        """
        names = (str(model[key]) for key in ("telescope", "experiment", "seed") if model.get(key) not in (None, ""))
        return cls(
            Path(alerts) if alerts else None,
            service or "",
            read_report(service, about) if service else None,
            "/".join(names) or "unnamed",
        )


def keep(
    found: Search,
    ledger: Ledger,
    number: int,
    *,
    name: str,
    night: str,
    folder: Path,
    gallery: int,
    hand_on: HandOn,
    part: str = "",
) -> None:
    """Write the files of an image, with the context of its night so far, and record it as done.

    After an error the image is not recorded as done. `report_night` writes the report.

    Parameters
    ----------
    found : Search
        The context is added to its table.
    ledger : Ledger
    number : int
        Number of the image in the ledger.
    name, night : str
        Name of the image, and of its night.
    folder : Path
        Folder for the tables.
    gallery : int
        Number of candidates in the picture, 0 for no picture.
    hand_on : HandOn
    part : str
        Subfolder for the alerts.
    """
    record = plain_values(found.record)
    radius = RADIUS * (record["seeing_px"] or np.nan) * (record["pixel_scale"] or np.nan)
    with ledger.finish(number, night=night, record=record, table=found.table, radius=radius):
        detections = add_night_context(found.table, ledger, night, number, plain=hand_on.alerts is None)
        write_search(folder, name, found, gallery=gallery)
        if hand_on.alerts is not None:
            _alert(hand_on.alerts / part, found, detections, ledger.images(night), number, model=hand_on.model)


def _alert(
    folder: Path,
    found: Search,
    detections: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    number: int,
    *,
    model: str,
) -> None:
    """Write packets of the candidates that the model calls real and that are not fixed on the detector."""
    real = [item for item in detections if item["image"] == number and item["real"] and not is_fixed(item)]
    stamps = dict(zip(found.table["candid"].astype(str), found.stamps, strict=True))
    write_alerts(folder, real, stamps, history=detections, images=images, model=model)


def report_night(ledger: Ledger, night: str, folder: Path, hand_on: HandOn) -> None:
    """Write the report of a night so far, if one is wanted."""
    if hand_on.about is not None:
        path = folder / f"{hand_on.service}.json"
        write_report(path, hand_on.about, detections_of(ledger, night), ledger.images(night))


def end_night(ledger: Ledger, night: str, folder: Path, hand_on: HandOn) -> None:
    """Update the tables of the earlier images with the context from later images, and write the report."""
    update_tables(folder, detections_of(ledger, night, plain=True))
    report_night(ledger, night, folder, hand_on)
    ledger.end(night)
