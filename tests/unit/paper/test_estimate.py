"""What a run would cost, from records of known content."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.networks.architecture import flops
from otrain_core.paper.estimate import (
    START,
    estimate,
    estimate_text,
    plan_trainings,
    publish_costs,
    recorded_costs,
    training_seconds,
    training_speeds,
)
from otrain_core.plan.run import Run
from tests.unit.synthetic_paper import ROOT, paper_values
from tests.unit.synthetic_results import BENCHMARK
from tests.unit.tiny_network import tiny_network


def benchmark(path, cpu):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{BENCHMARK}1.5\t0:00:03\t100\t900\t100\t100\t1\t2\t80.0\t{cpu:.2f}\n")


@pytest.fixture
def root(tmp_path):
    for image, cpu in (("I1", 10), ("I2", 30)):
        benchmark(tmp_path / f"benchmarks/A/x/{image}/psf.tsv", cpu)
    benchmark(tmp_path / "benchmarks/studies/size.tsv", 3)
    record = {
        "flops_per_cutout": 1e6,
        "n_train": 1000,
        "epochs": 10,
        "cpu_seconds": START + 30,
        "device": "CPU (2 cores)",
    }
    io.write_json(tmp_path / "A/x/paper/seed1/train.json", record)
    io.write_json(tmp_path / "A/x/paper/seed2/train.json", {"cpu_seconds": 3})  # of old code: no operations
    published = pd.DataFrame(
        {"psf_cpu_seconds": [99.0], "inject_cpu_seconds": [7.0], "telescope": "A", "pipeline": "x"}
    )
    io.write_table(tmp_path / "published/demo/quality.csv", published.assign(n_true=10, n_false=30))
    return tmp_path


def test_own_benchmarks_before_published_ones(root):
    costs = recorded_costs(root)
    assert costs.loc["psf", "mean"] == 20 and costs.loc["psf", "size"] == 2
    assert costs.loc["inject", "mean"] == 7 and "published" in costs.loc["inject", "known_from"]
    assert costs.loc["sweep", "mean"] == 3


def test_published_costs_serve_a_fresh_clone(root, tmp_path):
    publish_costs(root, root / "published/demo")
    for name in ("benchmarks", "A"):
        (root / name).rename(root / f"gone-{name}")
    assert recorded_costs(root).loc["psf", "mean"] == 20
    assert training_speeds(root) == {"cpu": pytest.approx(1e9)}


def test_speed_of_trainings_by_device(root):
    assert training_speeds(root) == {"cpu": pytest.approx(3 * 1e6 * 1000 * 10 / 30)}
    record = {"flops_per_cutout": 1e6, "n_train": 1000, "epochs": 10, "train_seconds": START + 3, "device": "GPU 0"}
    io.write_json(root / "A/x/paper/seed3/train.json", record)
    assert training_speeds(root)["gpu"] == pytest.approx(1e10)


def test_hours_are_jobs_times_seconds(root):
    jobs = {"psf": 36, "train": 4, "train_random": 2, "track": 1}
    cpu = {"train": 1800.0, "train_random": 3600.0}
    table = estimate(jobs, recorded_costs(root), cpu=cpu, gpu={"train": 90.0}).set_index("rule")
    assert table["cpu_hours"].iloc[:3].tolist() == pytest.approx([0.2, 2, 2])
    assert np.isnan(table.loc["track", "cpu_hours"]) and table.loc["train", "gpu_hours"] == pytest.approx(0.1)
    text = estimate_text(table.reset_index())
    assert "not counted, because never run before: track (1 jobs)" in text and "2.1 h on 2 cores" in text


def test_without_a_recorded_training_nothing_is_invented(tmp_path):
    table = estimate({"train": 3}, recorded_costs(tmp_path), cpu={}, gpu={})
    assert np.isnan(table["cpu_hours"]).all()
    assert "GPU hours: no training on a GPU is recorded yet" in estimate_text(table)


def test_trainings_of_the_paper(monkeypatch, root):
    monkeypatch.setattr("otrain_core.plan.run.require_programs", lambda *args, **options: None)
    values = paper_values()
    values["run"] |= {
        "experiments": ["paper"],
        "seeds": [1],
        "protocols": ["by-image", "random"],
        "cubes": ["JAST/stdpipe"],
    }
    values["studies"] |= {"sweeps": {"data-size": {"option": "n_train", "values": [500], "experiments": ["paper"]}}}
    run = Run.from_config(values, root=ROOT)
    rows = plan_trainings(run)
    assert [(row["rule"], row["n_train"]) for row in rows] == [
        ("train", None),
        ("train_random", None),
        ("train", 500),
    ]
    io.write_json(root / "JAST/stdpipe/cube.json", {"n_true": 100, "n_false": 100, "n_images_used": 2})
    cost, n = 3 * 30 * flops(tiny_network("paper", size=32)) / 1e9, 100 * len(run.inputs.images("JAST"))
    seconds = training_seconds(run, root, speed=1e9)
    assert seconds["train_random"] == pytest.approx(START + cost * 0.85 * n)
    assert seconds["train"] == pytest.approx(START + cost * (0.6 * n + 500) / 2)
