import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation import metrics
from otrain_core.evaluation.curves import curves as curves_of
from otrain_core.figures import displays
from otrain_core.figures.canvas import save_figure

LABELS = np.array([1, 1, 0, 1, 1, 0, 1, 0, 0, 0])
SCORES = np.array([0.95, 0.90, 0.80, 0.70, 0.60, 0.40, 0.30, 0.20, 0.20, 0.05])
MAGS = np.array([15.0, 15.5, 16.0, 16.5, 17.0, 17.5, 18.0, 18.5, 19.0, np.nan])
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "loss": [0.7, 0.4, 0.3],
        "accuracy": [0.5, 0.8, 0.9],
        "validation_loss": [0.6, 0.5, 0.55],
        "validation_accuracy": [0.6, 0.75, 0.74],
    }
)


@pytest.fixture
def curves():
    return curves_of(LABELS, SCORES, SCORES**1.1, MAGS, bins=2)


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_score_histogram_counts_every_candidate():
    display = displays.ScoreHistogramDisplay.from_predictions(LABELS, SCORES, threshold=0.5, bins=10)
    assert display.true.sum() + display.false.sum() == pytest.approx(1)
    assert display.true[9] == pytest.approx(0.2) and display.false[0] == pytest.approx(0.1)
    display.plot()
    assert labels_of(display.ax_) == ["False", "True", "threshold 0.50"]


def test_roc_by_magnitude_knows_its_areas(curves):
    display = displays.RocByMagnitudeDisplay.from_curves(curves)
    assert display.areas[""] == pytest.approx(metrics.auc(LABELS, SCORES))
    bright = np.isfinite(MAGS) & (MAGS < 17)
    assert display.areas["15.00 to 17.00"] == pytest.approx(metrics.auc(LABELS[bright], SCORES[bright]))
    assert len(display.plot().ax_.lines) == 3


def test_curves_survive_the_csv(curves, tmp_path):
    from otrain_core.io import read_table, write_table

    write_table(tmp_path / "curves.csv", curves)
    display = displays.RocByMagnitudeDisplay.from_curves(read_table(tmp_path / "curves.csv"))
    assert list(display.areas) == list(displays.RocByMagnitudeDisplay.from_curves(curves).areas)


def test_f1_and_mcc_against_threshold(curves):
    display = displays.F1MccDisplay.from_curves(curves, threshold=0.25)
    at = np.argmin(np.abs(display.thresholds - 0.25))
    assert display.f1[at] == pytest.approx(10 / 12)
    assert display.mcc[at] == pytest.approx(15 / np.sqrt(7 * 5 * 5 * 3))
    assert labels_of(display.plot().ax_) == ["F1", "MCC", "threshold 0.25"]


def test_confusion_shows_counts_and_shares():
    display = displays.ConfusionDisplay.from_counts(**metrics.confusion(LABELS, SCORES, 0.65))
    assert display.matrix.tolist() == [[3, 2], [1, 4]]
    texts = [text.get_text() for text in display.plot().ax_.texts]
    assert texts[:2] == ["TP\n3\n30.00 %", "FN\n2\n20.00 %"]


def test_calibration_before_and_after(curves):
    display = displays.CalibrationDisplay.from_curves(curves)
    assert np.allclose(display.before["true_fraction"], metrics.calibration_curve(LABELS, SCORES)["true_fraction"])
    assert labels_of(display.plot().ax_) == ["perfect", "network", "calibrated on the validation set"]
    alone = displays.CalibrationDisplay.from_curves(curves[curves["curve"] != "calibration_after"])
    assert alone.after is None


def test_completeness_counts_injections():
    table = pd.DataFrame({"low": [15, 17, 19], "high": [17, 19, 21], "injected": [4, 4, 0], "found": [4, 3, 0]})
    display = displays.CompletenessDisplay.from_counts(table.assign(accepted=[4, 2, 0])).plot()
    assert labels_of(display.ax_) == ["detected", "and called True"]
    assert display.ax_.get_xlabel() == "Injected magnitude [mag]"
    unknown = displays.CompletenessDisplay.from_counts(table, instrumental=True).plot()
    assert unknown.ax_.get_xlabel() == "Injected magnitude [instrumental mag]"
    found, called = (bars.lines[0].get_ydata() for bars in display.ax_.containers)
    assert found[:2].tolist() == [100, 75] and called[:2].tolist() == [100, 50] and np.isnan(found[2])


def test_history_draws_all_four_lines():
    display = displays.HistoryDisplay.from_history(HISTORY, kept_epoch=2).plot()
    assert len(labels_of(display.ax_)) == 5


def test_four_panels_and_files_that_repeat_byte_for_byte(curves, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for suffix in ("png", "pdf"):
        for name in ("a", "b"):
            figure = displays.four_panels(
                labels=LABELS, scores=SCORES, history=HISTORY, curves=curves, threshold=0.5, kept_epoch=2, title="tiny"
            )
            save_figure(tmp_path / f"{name}.{suffix}", figure)
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert len(figure.axes) == 5  # one twin
    assert dict(matplotlib.rcParams) == before, "a figure changed the global style"
