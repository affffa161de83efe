"""Studies of a run: tables, pools, sweeps and the sizes that they ask for."""

from otrain_core.plan.config import load_config
from otrain_core.plan.run import Run
from otrain_core.plan.studies import Studies


def test_studies_are_of_the_experiments_that_they_name(root):
    values = {
        "run": {"cubes": ["TCA/builtin", "TACA/builtin", "JAST/builtin"], "experiments": ["paper", "otrain2"]},
        "studies": {"experiments": ["otrain2"], "label_noise": ["otrain2"], "transfer": True, "leave_one_out": True},
    }
    tables = Run.from_config(values, root=root).studies.tables()
    assert "results/pool-without-TCA/builtin/otrain2/seed1/transfer.csv" in tables
    assert "results/JAST/builtin/otrain2/label_noise/suspects.csv" in tables
    assert len(tables) == 9 and not any("/paper/" in table for table in tables)


def test_pools_and_sources_of_fine_tuning():
    cubes = ["TCA/builtin", "TACA/builtin", "JAST/builtin"]
    studies = Studies(load_config({"run": {"cubes": cubes}, "studies": {"finetune": [50]}}))
    assert sorted(studies.pools()) == [f"pool-without-{name}/builtin" for name in ("JAST", "TACA", "TCA")]
    assert studies.finetune_source("TCA", "builtin") == "pool-without-TCA/builtin"
    assert studies.pool_members("pool-without-TCA", "builtin") == ["JAST/builtin", "TACA/builtin"]
    assert Studies(load_config({"run": {"cubes": cubes}})).pools() == {}


def test_a_sweep_gives_experiments_and_asks_for_sizes():
    values = {
        "experiments": {"otrain2": {"size": 31}, "paper": {}},
        "studies": {"sweeps": {"wide": {"option": "size", "values": [15, 63], "experiments": ["otrain2"]}}},
    }
    studies = Studies(load_config(values))
    assert set(studies.varied()) == {"otrain2-wide-15", "otrain2-wide-63"}
    assert [row["folder"] for row in studies.sweep("wide")] == [
        "demo/builtin/otrain2-wide-15/seed1",
        "demo/builtin/otrain2-wide-63/seed1",
    ]
    assert all("options" not in row for row in studies.sweep("wide"))
    assert studies.sizes("demo", "builtin") == {
        "experiments.otrain2.size": 31,
        "experiments.paper.size": None,
        "studies.sweeps.wide (otrain2-wide-15)": 15,
        "studies.sweeps.wide (otrain2-wide-63)": 63,
    }
    assert "studies.sweeps.wide (otrain2-wide-15)" not in studies.sizes("JAST", "builtin")


def test_channels():
    studies = Studies(load_config({"studies": {"experiments": ["otrain2-difference"]}}))
    assert studies.trained_channels() == ["difference"]
