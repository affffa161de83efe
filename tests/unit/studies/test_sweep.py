import json

import numpy as np

from otrain_core.figures.sweep import draw_sweep
from otrain_core.plan.config import load_config
from otrain_core.plan.sweeps import plan_sweep
from otrain_core.studies.sweep import SWEEP_COLUMNS, gather_sweep


def planned():
    study = {"option": "size", "values": [15, 31], "experiments": ["otrain2"], "seeds": [1, 2]}
    return plan_sweep(load_config({"studies": {"sweeps": {"size": study}}}), "size")


def write_training(folder, *, mcc, n_train):
    folder.mkdir(parents=True)
    headline = {"mcc": mcc, "mcc_low": mcc - 0.1, "mcc_high": mcc + 0.1, "n_true": 40, "n_false": 60}
    gap = {"train": 0.9, "validation": 0.8, "train_minus_validation": 0.1}
    (folder / "metrics.json").write_text(json.dumps({"headline": headline, "accuracy_gap": gap}))
    (folder / "history.csv").write_text("epoch,accuracy,validation_accuracy\n1,0.5,0.6\n2,0.7,0.75\n")
    (folder / "train.json").write_text(json.dumps({"n_train": n_train, "flops_per_cutout": 7, "cpu_seconds": 1.5}))


def test_a_half_finished_study_has_a_table_and_a_figure(tmp_path):
    plan = planned()
    for row, mcc in zip(plan[:3], (0.8, 0.9, 0.7), strict=True):
        write_training(tmp_path / row["folder"], mcc=mcc, n_train=500)
    (tmp_path / "demo/builtin/cube.json").write_text('{"n_images_used": 12}')
    table = gather_sweep(plan, root=tmp_path)
    assert np.allclose(table["fit_minus_validation"][:3], -0.05) and np.isnan(table["fit_minus_validation"][3])
    assert list(table["n_images"]) == [12] * 4
    assert tuple(table.columns) == SWEEP_COLUMNS and len(table) == 4
    assert list(table["status"]) == ["ok"] * 3 + ["not trained"]
    assert list(table["value"]) == ["15", "15", "31", "31"] and set(table["experiment"]) == {"otrain2"}
    assert list(table["mcc"][:3]) == [0.8, 0.9, 0.7] and np.isnan(table["mcc"][3])
    assert table["n_train"][0] == 500 and table["n_test"][0] == 100 and table["train_minus_validation"][0] == 0.1

    (line, *_), *_ = (container for container in draw_sweep(table).axes[0].containers)
    assert np.allclose(line.get_xdata(), [15, 31]) and np.allclose(line.get_ydata(), [0.85, 0.7])


def test_a_study_without_any_training_is_drawn_empty(tmp_path):
    figure = draw_sweep(gather_sweep(planned(), root=tmp_path))
    assert not figure.axes[0].containers and figure.axes[0].get_xlabel() == "Side of the cutouts [px]"
