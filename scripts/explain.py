"""Draw Grad-CAM maps of right and wrong decisions of one network on its test set."""


def main(*, model, cube, scores, metrics, gradcam, figure, options, seed, split=None):
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
        Draws the right decisions that are shown.
    split : path, optional
        Not read: the scores carry the sets.
    """
    import numpy as np

    from otrain_core.displays import GradCamGallery, save_figure
    from otrain_core.explain import explain_model
    from otrain_core.io import read_arrays, read_json, read_table, write_arrays
    from otrain_core.networks import load_model

    arrays, _ = explain_model(
        load_model(model),
        read_arrays(cube),
        read_table(scores),
        threshold=read_json(metrics)["headline"]["threshold"],
        rng=np.random.default_rng(seed),
        **options,
    )
    write_arrays(gradcam, arrays)
    save_figure(figure, GradCamGallery.from_arrays(arrays).plot().figure_)


if "snakemake" in globals():
    from otrain_core.job import job_logging

    with job_logging(snakemake):  # noqa: F821
        main(
            model=snakemake.input.model,  # noqa: F821
            cube=snakemake.input.cube,  # noqa: F821
            scores=snakemake.input.scores,  # noqa: F821
            metrics=snakemake.input.metrics,  # noqa: F821
            gradcam=snakemake.output.gradcam,  # noqa: F821
            figure=snakemake.output.figure,  # noqa: F821
            options=snakemake.params.options,  # noqa: F821
            seed=snakemake.params.seed,  # noqa: F821
        )
