"""Keeping what was found in one image of a night: ledger, tables, and what is handed on to brokers and portals."""

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

RADIUS = 1.0  # detections so near are one object [FWHM]


@dataclass(frozen=True)
class HandOn:
    """What is handed on: alert packets and a report; nothing by default.

    Attributes
    ----------
    alerts : Path or None
        Folder of Avro packets.
    service : str
        tns or skyportal; empty: no report.
    about : TnsReport or SkyPortalReport or None
        What the report says of who reports.
    model : str
        Name of the classifier, for the packets.
    """

    alerts: Path | None = None
    service: str = ""
    about: TnsReport | SkyPortalReport | None = None
    model: str = ""

    @classmethod
    def choose(cls, *, alerts: str | None, service: str | None, about: str | None, model: Mapping[str, Any]) -> HandOn:
        """As arguments of the command say; `model` is what the classifier says of itself.

        Raises
        ------
        ConfigError
            The file about who reports is missing or wrong.
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
    """Note an image as done, and write its files, with the context of its night so far; all of it or nothing.

    The report is that of a night, see `report_night`.

    Parameters
    ----------
    found : Search
        Its table gets the context.
    ledger : Ledger
    number : int
        Of the image in the ledger.
    name, night : str
    folder : Path
        Of the tables and of the report.
    gallery : int
        Candidates of a picture, 0 for none.
    hand_on : HandOn
    part : str
        Folder within that of the alerts.
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
    """Packets of the candidates that the model calls real and that do not keep their place on the detector."""
    real = [item for item in detections if item["image"] == number and item["real"] and not is_fixed(item)]
    stamps = dict(zip(found.table["candid"].astype(str), found.stamps, strict=True))
    write_alerts(folder, real, stamps, history=detections, images=images, model=model)


def report_night(ledger: Ledger, night: str, folder: Path, hand_on: HandOn) -> None:
    """Write the report of a night so far, where one is wanted."""
    if hand_on.about is not None:
        path = folder / f"{hand_on.service}.json"
        write_report(path, hand_on.about, detections_of(ledger, night), ledger.images(night))


def end_night(ledger: Ledger, night: str, folder: Path, hand_on: HandOn) -> None:
    """Write what the later images say of the candidates into the tables of the earlier ones, and the report."""
    update_tables(folder, detections_of(ledger, night, plain=True))
    report_night(ledger, night, folder, hand_on)
    ledger.end(night)
