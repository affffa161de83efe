"""The configuration: bad keys and values are told by name, before any work."""

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.config import Config, Experiment, GateOptions, Sweep, load_config

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, "config: sed: unknown key; did you mean 'seed'"),
        ({"draw": {"tune": 3}}, "config: draw.tune: unknown key; it is called 'validation' now$"),
        ({"run": {"protocols": ["grouped"]}}, "run.protocols.0: .*found 'grouped'.; it is called 'by-image' now$"),
        ({"run": {"protocols": ["random", "paper"]}}, "run.protocols.1: .*found 'paper'.; it is called 'random' now$"),
        ({"run": {"protocols": ["image"]}}, "run.protocols.0: .*found 'image'.$"),
        (
            {"pipelines": {"x": {"detect": {"treshold": 3}}}},
            "pipelines.x.detect.treshold: unknown key; did you mean 'threshold'",
        ),
        (
            {"pipelines": {"x": {"detect": {"threshold": -3}}}},
            "detect.threshold: Input should be greater than 0, or 'auto' .found -3.$",
        ),
        ({"pipelines": {"x": {"subtract": {"method": "magic"}}}}, "subtract.method: .*'alard-lupton'.*'magic'"),
        ({"split": {"fractions": [1, 2, 3]}}, "split.fractions: must be three positive fractions"),
        ({"run": {"cubes": ["demo"]}}, "run.cubes: 'demo' is not of the form telescope/pipeline"),
        ({"run": {"cubes": ["demo/nopipe"]}}, "run.cubes: unknown pipeline 'nopipe'"),
        ({"run": {"experiments": ["nothing"]}}, "run.experiments: unknown experiment 'nothing'"),
        ({"seed": "many"}, "config: seed: .*integer.*'many'"),
        ({"seed": -1}, "config: seed: .*greater than or equal to 0"),
        ({"run": {"seeds": [1, -1]}}, "run.seeds.1: .*greater than or equal to 0"),
        ({"run": {"seeds": [2**32]}}, "run.seeds.0: .*less than 4294967296"),
        ({"run": {"seeds": [1, 2, 1]}}, "run.seeds: 1 is listed twice"),
        ({"run": {"cubes": ["demo/builtin", "demo/builtin"]}}, "run.cubes: 'demo/builtin' is listed twice"),
        ({"run": {"cubes": ["pool/builtin"]}}, "'pool' is reserved for a pool"),
        ({"split": {"fractions": [NAN, 0.5, 0.5]}}, "split.fractions.0: .*finite"),
        ({"split": {"fractions": [1.2, -0.1, -0.1]}}, "split.fractions: must be three positive fractions"),
        ({"split": {"guard": float("inf")}}, "split.guard: .*finite"),
        ({"gate": {"min_mcc": 70}}, "gate.min_mcc: .*less than 1"),
        ({"gate": {"max_fp": NAN}}, "gate.max_fp: .*finite"),
        ({"evaluate": {"bootstrap": 10**12}}, "evaluate.bootstrap: .*less than or equal to"),
        ({"experiments": {"mine": {"learning_rate": 0}}}, "mine.learning_rate: .*greater than 0"),
        ({"experiments": {"mine": {"inputs": ["seeing"]}}}, "mine.inputs: at least one of difference"),
        ({"experiments": {"mine": {"inputs": ["psf"]}}}, "psf requires difference"),
        ({"experiments": {"mine": {"network": "otrain3", "inputs": ["difference"]}}}, "otrain3 requires psf"),
        ({"experiments": {"mine": {"vary_inputs": {"no_psf": 0.6, "wrong_psf": 0.5}}}}, "must be at most 1"),
        ({"experiments": {"sky": {}, "paper": {}, "otrain2": {}}}, "experiments: 'sky' is reserved for a folder"),
        ({"studies": {"label_noise": ["mine"]}}, "studies.label_noise: unknown experiment 'mine'"),
    ],
)
def test_bad_config_names_key_value_and_what_is_allowed(values, message):
    with pytest.raises(ConfigError, match=message):
        load_config(values)


def test_the_default_is_whole():
    assert load_config({}) == Config()
    assert set(Config().run.experiments) <= set(Config().experiments)
    assert GateOptions().min_mcc == 0.7


def test_a_sweep_sets_one_option_and_leaves_the_rest():
    sweep = Sweep(option="size", values=[15], options={"epochs": 3})
    assert sweep.experiment(Experiment(batch_size=64), 15) == Experiment(batch_size=64, size=15, epochs=3)


def test_anchors_that_repeat_each_other_are_refused():
    values = {"x": 1}
    for _ in range(40):
        values = {"a": values, "b": values}
    with pytest.raises(ConfigError, match="config: more than 1000000 values after its anchors are expanded"):
        load_config({"telescopes": values})


def test_an_experiment_that_starts_from_the_shipped_model():
    chosen = {"run": {"experiments": ["mine"]}}
    tuned = load_config(chosen | {"experiments": {"mine": {"from": "universal"}}}).experiments["mine"]
    assert tuned.start == "universal" and tuned.threshold == "even"
    assert Experiment.model_validate(tuned.model_dump()) == tuned  # as a rule hands it to a step
    assert Experiment.model_validate({"from": "universal", "threshold": "platt"}).threshold == "platt"
    assert Config().experiments["fine-tuned"].start == "universal" and Experiment().threshold == "platt"
    with pytest.raises(ConfigError, match="from"):
        load_config({"experiments": {"mine": {"from": "demo"}}})
    with pytest.raises(ConfigError, match="is reserved for the shipped model"):
        load_config({"experiments": {"universal": {}}})
