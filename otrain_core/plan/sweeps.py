"""Sweeps: one option of the experiments run through a list of values."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from otrain_core.errors import ConfigError
from otrain_core.plan.config import Config, Experiment
from otrain_core.plan.sections import NAME_PATTERN, explain_first
from otrain_core.results import training_folder


def plan_sweep(config: Config, sweep: str) -> list[dict[str, Any]]:
    """Trainings of one sweep, in the order of the configuration.

    Returns
    -------
    list of dict
        folder (of the training, telescope/pipeline/experiment/seedN), trained (name of the experiment it is
        trained under: one of its own, or the experiment of the run that has the same options) and its options as an `Experiment` under options; and sweep, option, value, experiment.

    Raises
    ------
    ConfigError
        A value that the option cannot have.
    """
    plan, study = [], config.studies.sweeps[sweep]
    for cube in study.cubes or config.run.cubes:
        for experiment in study.experiments or config.run.experiments:
            for value in study.values:
                name = f"{experiment}-{sweep}-{value_name(value)}"
                options = _varied(config, sweep, experiment, value, name)
                # what is an experiment of the run already is not trained twice
                name = next((key for key in config.run.experiments if config.experiments[key] == options), name)
                for seed in study.seeds or config.run.seeds:
                    row = {"sweep": sweep, "option": study.option, "value": value_name(value), "experiment": experiment}
                    plan.append(
                        {**row, "trained": name, "options": options, "folder": training_folder(cube, name, seed)}
                    )
    return plan


def value_name(value: Any) -> str:
    """A value as part of a name, as in 31 or difference+science."""
    return "+".join(value) if isinstance(value, list) else str(value)


def _varied(config: Config, sweep: str, experiment: str, value: Any, name: str) -> Experiment:
    where = f"studies.sweeps.{sweep}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"{where}.values: {value!r} cannot be part of a name")
    if name in config.experiments:
        raise ConfigError(f"{where}: experiments has a {name!r} of its own")
    try:
        return config.studies.sweeps[sweep].experiment(config.experiments[experiment], value)
    except ValidationError as error:
        raise ConfigError(explain_first(error, where)) from None
