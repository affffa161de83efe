"""Figure of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otrain_core.io import read_table
from otrain_core.results import number, read_record, read_scores


def draw_training(folder: str | Path) -> dict[str, Any]:
    """Panels, confusion matrix and calibration of one training, as far as its files exist.

    Returns
    -------
    dict
        matplotlib.figure.Figure under panels, confusion, calibration.
    """
    from otrain_core.figures.canvas import new_figure
    from otrain_core.figures.displays import CalibrationDisplay, ConfusionDisplay, four_panels

    folder = Path(folder)
    metrics, train, scores = (
        read_record(folder / "metrics.json"),
        read_record(folder / "train.json"),
        read_scores(folder),
    )
    drawn: dict[str, Any] = {}
    if not metrics.get("headline"):
        return drawn
    curves = read_table(folder / "curves.csv") if (folder / "curves.csv").is_file() else None
    if scores is not None and curves is not None and (folder / "history.csv").is_file():
        scored = scores[scores["set"] == metrics.get("scored_set", "test")]
        drawn["panels"] = four_panels(
            labels=scored["label"].to_numpy(),
            scores=scored["score"].to_numpy(),
            history=read_table(folder / "history.csv"),
            curves=curves,
            threshold=number(metrics["headline"], "threshold"),
            kept_epoch=train.get("kept_epoch"),
        )
    if metrics.get("confusion"):
        _, ax = new_figure(3.1, 2.9)
        drawn["confusion"] = ConfusionDisplay.from_counts(**metrics["confusion"]).plot(ax).figure_
    if curves is not None:
        _, ax = new_figure(3.1, 2.9)
        drawn["calibration"] = CalibrationDisplay.from_curves(curves).plot(ax).figure_
    return drawn
