"""Studies of a run: sweeps, pools of telescopes, and their tables."""

from __future__ import annotations

from typing import Any

from otrain_core.plan.config import Config, Experiment
from otrain_core.plan.pools import plan_pools, source_without
from otrain_core.plan.sweeps import plan_sweep
from otrain_core.results import training_folder


class Studies:
    """Trainings and tables of the studies of a run.

    Parameters
    ----------
    config : Config

    Raises
    ------
    ConfigError
        A sweep sets an option to an invalid value.
    """

    def __init__(self, config: Config):
        self._config = config
        self._sweeps = {name: plan_sweep(config, name) for name in config.studies.sweeps}

    def sweep(self, name: str) -> list[dict[str, Any]]:
        """Trainings of a sweep, see `otrain_core.plan.sweeps.plan_sweep`, without their options."""
        return [{key: row[key] for key in row if key != "options"} for row in self._sweeps[name]]

    def varied(self) -> dict[str, Experiment]:
        """Variants of the experiments in the sweeps, by name."""
        return {row["trained"]: row["options"] for rows in self._sweeps.values() for row in rows}

    def sizes(self, telescope: str, pipeline: str) -> dict[str, int | None]:
        """Cutout size [px] that each experiment needs from a cube, by the key that sets it; None for no cropping."""
        config = self._config
        named = {*config.run.experiments, *config.studies.experiments, *config.studies.label_noise}
        sizes = {f"experiments.{name}.size": config.experiments[name].size for name in sorted(named)}
        for name, rows in self._sweeps.items():
            for row in rows:
                if row["folder"].startswith(f"{telescope}/{pipeline}/"):
                    sizes[f"studies.sweeps.{name} ({row['trained']})"] = row["options"].size
        return sizes

    def pools(self) -> dict[str, list[str]]:
        """Pools that the studies train on, with the cubes of each."""
        studies, cubes = self._config.studies, self._config.run.cubes
        planned = plan_pools(cubes, pooled=studies.pool, leave_one_out=studies.leave_one_out)
        sources = {self.finetune_source(*cube.split("/")) for cube in cubes} if studies.finetune else set()
        return planned | {name: members for name, members in plan_pools(cubes).items() if name in sources}

    def pool_members(self, telescope: str, pipeline: str) -> list[str]:
        """Cubes of a pool; none for a name that is not a pool of the run."""
        return plan_pools(self._config.run.cubes).get(f"{telescope}/{pipeline}", [])

    def finetune_source(self, telescope: str, pipeline: str) -> str | None:
        """Cube whose models were trained without the telescope, as the start of fine-tuning.

        ``universal`` for the shipped model, None if there is no such cube.
        """
        if self._config.studies.finetune_from == "universal":
            return "universal"
        return source_without(f"{telescope}/{pipeline}", self._config.run.cubes)

    def trained_channels(self) -> list[str]:
        """Channels that the experiments of the studies read; pools contain only these."""
        read = {name for key in self._moved_experiments() for name in self._config.experiments[key].inputs}
        return [name for name in self._config.cube.channels if name in read]

    def tables(self) -> list[str]:
        """Paths of the tables of the studies: transfer.csv, finetune.csv, completeness.csv (finder) and suspects.csv."""
        run, studies = self._config.run, self._config.studies
        transferred = (run.cubes if studies.transfer else []) + list(self.pools())
        tuned = [cube for cube in run.cubes if studies.finetune and self.finetune_source(*cube.split("/"))]
        moved = [
            f"results/{training_folder(cube, experiment, seed)}/{name}.csv"
            for name, cubes in (("transfer", transferred), ("finetune", tuned))
            for cube in cubes
            for experiment in self._moved_experiments()
            for seed in run.seeds
        ]
        judged = [f"results/{cube}/finder/completeness.csv" for cube in run.cubes if self._config.finder.train]
        return (
            moved
            + judged
            + [
                f"results/{cube}/{experiment}/label_noise/suspects.csv"
                for cube in run.cubes
                for experiment in studies.label_noise
            ]
        )

    def beside_finder(self) -> str:
        """Experiment whose classifier is compared with the detector network: otrain2 if the run has it, else the first."""
        names = self._config.run.experiments
        return "otrain2" if "otrain2" in names else names[0]

    def _moved_experiments(self) -> list[str]:
        return self._config.studies.experiments or self._config.run.experiments
