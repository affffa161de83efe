"""Rank suspected wrong labels of a cube by scores out of fold, and draw the worst."""


def main(*, cube, split, suspects, figure, record, experiment, options, seed, threads=None):
    """Find suspected labels.

    Parameters
    ----------
    cube, split : path
        ``cube.npz`` and the split's CSV.
    suspects, figure, record : path
        Files written: CSV, PNG and JSON.
    experiment : dict
        Keys of the config section ``experiments``.
    options : dict
        Keys of the config section ``label_noise``.
    seed : int
        Of the folds, the trainings and the flips.
    threads : int, optional
        CPU threads.
    """
    import time

    import numpy as np

    from otrain_core.arrays import read_stack
    from otrain_core.figures.canvas import save_figure
    from otrain_core.io import read_table, write_json, write_table
    from otrain_core.jobs.provenance import provenance
    from otrain_core.studies.label_flips import flip_trial
    from otrain_core.studies.label_noise import find_suspects, out_of_fold_scores, suspect_gallery

    started = time.perf_counter()
    arrays, table = read_stack(cube, mmap=("cube",)), read_table(split)
    training = {key: value for key, value in experiment.items() if key != "threshold"} | {"threads": threads}
    shared = {"seed": seed, "folds": options["folds"], **training}
    scores = out_of_fold_scores(arrays, table, rng=np.random.default_rng(seed), **shared)
    ranked, result = find_suspects(arrays, scores, ranking=options["ranking"])
    if options["flip_fraction"] > 0:
        result["trial"] = flip_trial(
            arrays,
            table,
            rng=np.random.default_rng([seed, 1]),
            fraction=options["flip_fraction"],
            threshold_rule=experiment["threshold"],
            **shared,
        )
    gallery = suspect_gallery(arrays, ranked, n=options["n_cutouts"])
    write_table(suspects, ranked)
    save_figure(figure, gallery.plot(columns=len(gallery.channels)).figure_)
    about = {key: str(arrays[key]) for key in ("telescope", "pipeline") if key in arrays}
    took = {"folds": options["folds"], "seed": seed, "seconds": time.perf_counter() - started}
    write_json(record, {**about, **took, **result, **provenance()})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            cube=snakemake.input.cube,
            split=snakemake.input.split,
            suspects=snakemake.output.suspects,
            figure=snakemake.output.figure,
            record=snakemake.output.record,
            experiment=snakemake.params.experiment,
            options=snakemake.params.options,
            seed=snakemake.params.seed,
            threads=snakemake.threads,
        )
