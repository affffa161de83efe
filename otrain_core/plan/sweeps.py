"""Sweeps: series of trainings that vary one option of the experiments."""

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
        One training each: ``folder`` (telescope/pipeline/experiment/seedN), ``trained`` (name of the experiment that is
        trained: a variant, or an experiment of the run with the same options), ``options`` (its `Experiment`), and
        ``sweep``, ``option``, ``value`` and ``experiment`` (the name before the variation).

    Raises
    ------
    ConfigError
        Invalid value of the option.
    """
    plan, study = [], config.studies.sweeps[sweep]
    for cube in study.cubes or config.run.cubes:
        for experiment in study.experiments or config.run.experiments:
            for value in study.values:
                name = f"{experiment}-{sweep}-{value_name(value)}"
                options = _varied(config, sweep, experiment, value, name)
                # An experiment of the run with the same options is not trained again.
                name = next((key for key in config.run.experiments if config.experiments[key] == options), name)
                for seed in study.seeds or config.run.seeds:
                    row = {"sweep": sweep, "option": study.option, "value": value_name(value), "experiment": experiment}
                    plan.append(
                        {**row, "trained": name, "options": options, "folder": training_folder(cube, name, seed)}
                    )
    return plan


def value_name(value: Any) -> str:
    """A value as part of a name, such as 31 or difference+science."""
    return "+".join(value) if isinstance(value, list) else str(value)


def _varied(config: Config, sweep: str, experiment: str, value: Any, name: str) -> Experiment:
    where = f"studies.sweeps.{sweep}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"{where}.values: {value!r} cannot be part of a file name; use letters, digits and _ + . -")
    if name in config.experiments:
        raise ConfigError(f"{where}: the name {name!r} is needed for the sweep; rename this entry of experiments")
    try:
        return config.studies.sweeps[sweep].experiment(config.experiments[experiment], value)
    except ValidationError as error:
        raise ConfigError(explain_first(error, where)) from None
