import numpy as np
import pandas as pd
import pytest

from otrain_core.evaluation import evaluate, metrics
from otrain_core.figures import displays
from tests.unit.synthetic_cube import make_cube

LABELS = np.array([1, 1, 0, 1, 1, 0, 1, 0, 0, 0])
SCORES = np.array([0.95, 0.90, 0.80, 0.70, 0.60, 0.40, 0.30, 0.20, 0.20, 0.05])
MAGS = np.array([15.0, 15.5, 16.0, 16.5, 17.0, 17.5, 18.0, 18.5, 19.0, np.nan])
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "loss": [0.7, 0.4, 0.3],
        "accuracy": [0.5, 0.8, 0.9],
        "tune_loss": [0.6, 0.5, 0.55],
        "tune_accuracy": [0.6, 0.75, 0.74],
    }
)


@pytest.fixture
def curves():
    return evaluate.curves(LABELS, SCORES, SCORES**1.1, MAGS, bins=2)


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
    same = displays.RocByMagnitudeDisplay.from_predictions(LABELS, SCORES, MAGS, bins=2)
    assert same.areas == display.areas
    assert len(display.plot().ax_.lines) == 3


def test_curves_survive_the_csv(curves, tmp_path):
    from otrain_core.io import read_table, write_table

    write_table(tmp_path / "curves.csv", curves)
    display = displays.RocByMagnitudeDisplay.from_curves(read_table(tmp_path / "curves.csv"))
    assert list(display.areas) == list(displays.RocByMagnitudeDisplay.from_curves(curves).areas)


def test_f1_and_mcc_against_threshold(curves):
    display = displays.F1MccDisplay.from_predictions(LABELS, SCORES, threshold=0.25)
    at = np.argmin(np.abs(display.thresholds - 0.25))
    assert display.f1[at] == pytest.approx(10 / 12)
    assert display.mcc[at] == pytest.approx(15 / np.sqrt(7 * 5 * 5 * 3))
    assert np.allclose(displays.F1MccDisplay.from_curves(curves).mcc, display.mcc)
    assert labels_of(display.plot().ax_) == ["F1", "MCC", "threshold 0.25"]


def test_confusion_shows_counts_and_shares():
    display = displays.ConfusionDisplay.from_predictions(LABELS, SCORES, threshold=0.65)
    assert display.matrix.tolist() == [[3, 2], [1, 4]]
    texts = [text.get_text() for text in display.plot().ax_.texts]
    assert texts[:2] == ["TP\n3\n30.00 %", "FN\n2\n20.00 %"]


def test_calibration_before_and_after(curves):
    display = displays.CalibrationDisplay.from_curves(curves)
    assert np.allclose(display.before["true_fraction"], metrics.calibration_curve(LABELS, SCORES)["true_fraction"])
    assert labels_of(display.plot().ax_) == ["perfect", "network", "calibrated on tune"]
    assert displays.CalibrationDisplay.from_predictions(LABELS, SCORES).after is None


def test_completeness_counts_injections():
    mags = np.repeat([16.0, 18.0, 20.0], [4, 4, 4])
    found = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0], bool)
    display = displays.CompletenessDisplay.from_injections(mags, found, accepted=found & (mags < 19), bins=3)
    assert display.table["injected"].tolist() == [4, 4, 4]
    assert display.table["found"].tolist() == [4, 3, 1]
    assert display.table["accepted"].tolist() == [4, 3, 0]
    assert labels_of(display.plot().ax_) == ["detected", "and called True"]


def test_history_draws_all_four_lines():
    display = displays.HistoryDisplay.from_history(HISTORY, kept_epoch=2).plot()
    assert len(labels_of(display.ax_)) == 5


def test_gallery_captions_belong_to_their_cutouts():
    cube = make_cube(40, size=15)
    cube["mags"][:] = np.arange(40)
    cube["cube"][5:8] = np.nan
    gallery = displays.CutoutGallery.from_cube(cube, rng=np.random.default_rng(0), n=12, scores=np.arange(40) / 40)
    for value, name in ((0, "False"), (1, "True")):
        rows = gallery.rows[name]
        assert np.all(cube["labels"][rows] == value) and len(set(rows)) == 12
        assert gallery.captions[name] == [f"{row:.2f} mag, score {row / 40:.2f}" for row in rows]
        assert np.array_equal(gallery.panels[name], cube["cube"][rows][..., 0], equal_nan=True)
    assert gallery.plot().figure_ is not None


def test_grey_levels_stand_missing_and_flat_cutouts():
    for cutout in (np.full((5, 5), np.nan), np.zeros((5, 5)), np.full((5, 5), -3.0)):
        low, high = displays.robust_limits(cutout)
        assert np.isfinite([low, high]).all() and low < high


def test_grad_cam_gallery_draws_kinds_that_have_none():
    rng = np.random.default_rng(0)
    arrays = {
        "cutouts": rng.normal(size=(2, 15, 15, 1)),
        "maps": rng.random((2, 4, 4)),
        "resized": rng.random((2, 15, 15)),
        "kind": np.array(["right True", "wrong False"]),
        "score": np.array([0.9, 0.8]),
        "energy": np.array([0.2, np.nan]),
        "layer": np.array("conv5"),
    }
    figure = displays.GradCamGallery.from_arrays(arrays).plot(per_kind=2).figure_
    assert [part.get_suptitle() for part in figure.subfigs] == [
        *("right True", "right False: none", "wrong True: none", "wrong False")
    ]


def test_four_panels_and_files_that_repeat_byte_for_byte(curves, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for suffix in ("png", "pdf"):
        for name in ("a", "b"):
            figure = displays.four_panels(
                labels=LABELS, scores=SCORES, history=HISTORY, curves=curves, threshold=0.5, kept_epoch=2, title="tiny"
            )
            displays.save_figure(tmp_path / f"{name}.{suffix}", figure)
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert len(figure.axes) == 5  # one twin
    assert dict(matplotlib.rcParams) == before, "a figure changed the global style"
