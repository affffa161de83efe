"""Fine-tune a model on a telescope that it never saw, with ever more labels."""


def main(
    *,
    model,
    source_cube,
    source_split,
    cube,
    split,
    table,
    source,
    target,
    experiment,
    seed,
    options,
    training,
    threads=None,
):
    """Write the curve over the number of labels.

    Parameters
    ----------
    model, source_cube, source_split : path
        ``model.keras`` and the files that it was trained on.
    cube, split : path
        ``cube.npz`` and ``split.csv`` of the target.
    table : path
        CSV written, see `otrain_core.studies.finetune.COLUMNS`.
    source, target : str
        As telescope/pipeline; the source is a pool or another telescope.
    experiment, seed : str, int
        Of the training; the seed draws the labels and the bootstrap too.
    options : dict
        sizes, threshold_rule, bootstrap, confidence, guard, learning_rate, epochs, batch_size.
    training : dict
        Keys of the config section ``experiments``: label_smoothing and augment stay as they were.
    threads : int, optional
        CPU threads.
    """
    import numpy as np

    from otrain_core.cubes.cube import read_cube
    from otrain_core.io import read_table, write_table
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.devices import prepare_device
    from otrain_core.studies.finetune import finetune_curve

    prepare_device(threads=threads)  # before anything starts TensorFlow
    result = finetune_curve(
        load_model(model),
        (source, read_cube(source_cube, mmap=True), read_table(source_split)),
        (target, read_cube(cube, mmap=True), read_table(split)),
        seed=seed,
        rng=np.random.default_rng(seed),
        experiment=experiment,
        **options,
        **{key: training[key] for key in ("label_smoothing", "augment")},
    )
    write_table(table, result)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            **{key: str(path) for key, path in snakemake.input.items()},
            table=snakemake.output.table,
            source=snakemake.params.source,
            target=f"{snakemake.wildcards.telescope}/{snakemake.wildcards.pipeline}",
            experiment=snakemake.wildcards.experiment,
            seed=int(snakemake.wildcards.seed),
            options=snakemake.params.options,
            training=snakemake.params.training,
            threads=snakemake.threads,
        )
