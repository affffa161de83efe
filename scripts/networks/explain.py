"""Draw Grad-CAM maps of one network's decisions on its test set, and try them without the neighbours."""


def main(*, model, cube, scores, metrics, gradcam, figure, options, seed, split=None, neighbours=None, record=None):
    """Explain.

    Parameters
    ----------
    model, cube, scores, metrics : path
        ``model.keras``, ``cube.npz``, ``scores.csv`` and ``metrics.json`` (for the threshold).
    gradcam, figure : path
        Files written: ``.npz`` and PNG.
    options : dict
        Keys of the config section ``explain``.
    seed : int
        Draws the right decisions that are shown, and the noise where a neighbour was.
    split : path, optional
        Not read: the scores carry the sets.
    neighbours, record : path, optional
        Files written: CSV of the neighbour test, JSON of the summary numbers.
    """
    import numpy as np

    from otrain_core.arrays import read_stack, write_arrays
    from otrain_core.figures.canvas import save_figure
    from otrain_core.figures.galleries import GradCamGallery
    from otrain_core.io import read_json, read_table, write_json, write_table
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.explain import explain_model
    from otrain_core.networks.neighbours import neighbour_test

    options = dict(options)
    n_sigma = options.pop("neighbour_sigma", 5.0)
    inputs = load_model(model), read_stack(cube, mmap=("cube",)), read_table(scores)
    threshold = read_json(metrics)["headline"]["threshold"]
    arrays, result = explain_model(*inputs, threshold=threshold, rng=np.random.default_rng(seed), **options)
    write_arrays(gradcam, arrays)
    save_figure(figure, GradCamGallery.from_arrays(arrays).plot().figure_)
    if neighbours and record:
        table, tried = neighbour_test(
            *inputs, threshold=threshold, rng=np.random.default_rng([seed, 1]), n_sigma=n_sigma
        )
        write_table(neighbours, table)
        write_json(record, {**result, "neighbours": tried})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            model=snakemake.input.model,
            cube=snakemake.input.cube,
            scores=snakemake.input.scores,
            metrics=snakemake.input.metrics,
            gradcam=snakemake.output.gradcam,
            figure=snakemake.output.figure,
            options=snakemake.params.options,
            seed=snakemake.params.seed,
            neighbours=snakemake.output.get("neighbours"),
            record=snakemake.output.get("record"),
        )
