"""Score one model on the test sets of all cubes of the run."""


def main(*, model, cube, split, target_cubes, target_splits, table, source, targets, experiment, seed, options, rule):
    """Write the table of one training.

    Parameters
    ----------
    model, cube, split : path
        ``model.keras`` and the files that it was trained on.
    target_cubes, target_splits : list of path
        ``cube.npz`` and ``split.csv`` of each of `targets`.
    table : path
        CSV written, see `otrain_core.studies.transfer.COLUMNS`.
    source, targets : str, list of str
        As telescope/pipeline; the source may be a pool.
    experiment, seed : str, int
        Of the training; the seed draws the bootstrap too.
    options : dict
        bootstrap, confidence, guard.
    rule : {'gmean', 'f1', 'f1-mcc', 'platt'}
        Sets the thresholds.
    """
    import numpy as np

    from otrain_core.cubes.cube import read_cube
    from otrain_core.io import read_table, write_table
    from otrain_core.networks.architecture import load_model
    from otrain_core.studies.transfer import transfer

    cubes = zip(targets, target_cubes, target_splits, strict=True)
    result = transfer(
        load_model(model),
        (source, read_cube(cube, mmap=True), read_table(split)),
        ((name, read_cube(path, mmap=True), read_table(other)) for name, path, other in cubes),
        rng=np.random.default_rng(seed),
        threshold_rule=rule,
        experiment=experiment,
        seed=seed,
        **options,
    )
    write_table(table, result)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            model=snakemake.input.model,
            cube=snakemake.input.cube,
            split=snakemake.input.split,
            target_cubes=list(snakemake.input.target_cubes),
            target_splits=list(snakemake.input.target_splits),
            table=snakemake.output.table,
            source=f"{snakemake.wildcards.telescope}/{snakemake.wildcards.pipeline}",
            targets=snakemake.params.targets,
            experiment=snakemake.wildcards.experiment,
            seed=int(snakemake.wildcards.seed),
            options=snakemake.params.options,
            rule=snakemake.params.threshold_rule,
        )
