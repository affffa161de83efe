"""Sweeps: which trainings they are made of, and what is wrong with them."""

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.config import load_config
from otrain_core.plan.sweeps import plan_sweep, value_name


def planned(**sweep):
    study = {"option": "size", "values": [15, 31], "experiments": ["otrain2"], "seeds": [1, 2]} | sweep
    return plan_sweep(load_config({"studies": {"sweeps": {"size": study}}}), "size")


def test_a_training_for_each_cube_experiment_value_and_seed():
    plan = planned(options={"epochs": 3})
    assert [row["folder"] for row in plan] == [
        f"demo/builtin/otrain2-size-{size}/seed{seed}" for size in (15, 31) for seed in (1, 2)
    ]
    assert [row["options"].size for row in plan] == [15, 15, 31, 31]
    assert {row["options"].epochs for row in plan} == {3} and plan[0]["options"].network == "otrain2"


def test_a_list_of_channels_is_a_value():
    plan = planned(option="inputs", values=[["difference"], ["difference", "science"]])
    assert {row["trained"] for row in plan} == {"otrain2-size-difference", "otrain2-size-difference+science"}
    assert plan[-1]["options"].inputs == ["difference", "science"]


def test_what_is_an_experiment_of_the_run_is_not_trained_twice():
    plan = planned(option="batch_size", values=[64, 128], seeds=[1])
    assert [row["folder"] for row in plan] == ["demo/builtin/otrain2-size-64/seed1", "demo/builtin/otrain2/seed1"]
    assert [row["value"] for row in plan] == ["64", "128"] and plan[1]["experiment"] == "otrain2"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"values": [5]}, "studies.sweeps.size: size: .*greater than or equal to 9"),
        ({"option": "sise"}, "studies.sweeps.size: sise: unknown key; did you mean 'size'"),
        ({"option": "inputs", "values": ["a b"]}, "studies.sweeps.size"),
        ({"experiments": ["mine"]}, "studies.sweeps.size.experiments: unknown experiment 'mine'"),
        ({"cubes": ["JAST/gmadet"]}, "studies.sweeps.size.cubes: 'JAST/gmadet' is not in run.cubes"),
    ],
)
def test_a_wrong_sweep_is_told(sweep, message):
    with pytest.raises(ConfigError, match=message):
        planned(**sweep)


def test_a_sweep_must_not_take_the_name_of_an_experiment():
    values = {
        "experiments": {"otrain2-size-15": {}, "otrain2": {}, "paper": {}},
        "studies": {"sweeps": {"size": {"option": "size", "values": [15], "experiments": ["otrain2"]}}},
    }
    with pytest.raises(ConfigError, match="'otrain2-size-15' is needed for the sweep"):
        plan_sweep(load_config(values), "size")


def test_values_as_part_of_a_name():
    assert value_name(31) == "31" and value_name(["difference", "psf"]) == "difference+psf"
