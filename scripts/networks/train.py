"""Train one network on one cube and write the model, its history and its record."""

from pathlib import Path


def main(*, cube, split, model, history, record, experiment, seed, protocol, threads=None):
    """Train.

    Parameters
    ----------
    cube, split : path
        ``cube.npz`` and the split's CSV.
    model, history, record : path
        Files written: ``.keras``, CSV and JSON.
    experiment : dict
        Keys of the config section ``experiments``.
    seed : int
    protocol : {'grouped', 'paper'}
    threads : int, optional
        CPU threads.
    """
    from otrain_core.arrays import read_stack
    from otrain_core.cubes.inputs import SAMPLING
    from otrain_core.io import digest, read_table, write_json, write_table
    from otrain_core.jobs.provenance import provenance
    from otrain_core.networks.train import train_model
    from otrain_core.registry.live import live_run

    options = {key: value for key, value in experiment.items() if key != "threshold"}
    checkpoint = Path(model).parent / f"{Path(model).stem}.checkpoint"
    with live_run(Path(model).parent) as watch:
        trained, epochs, result = train_model(
            read_stack(cube, mmap=("cube",), only=("cube", "labels", "channels", *SAMPLING)),
            read_table(split, columns=("index", "set")),
            seed=seed,
            protocol=protocol,
            checkpoint=checkpoint,
            threads=threads,
            watch=watch,
            **options,
        )

    from otrain_core.networks.architecture import save_model

    save_model(trained, model)
    write_table(history, epochs)
    run = {"mlflow_run": watch.run_id} if watch and watch.run_id else {}
    write_json(record, {**result, **run, "cube_digest": digest(cube), "split_digest": digest(split), **provenance()})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            cube=snakemake.input.cube,
            split=snakemake.input.split,
            model=snakemake.output.model,
            history=snakemake.output.history,
            record=snakemake.output.record,
            experiment=snakemake.params.experiment,
            seed=int(snakemake.wildcards.seed),
            protocol=snakemake.params.protocol,
            threads=snakemake.threads,
        )
