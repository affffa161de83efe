"""Score a cube with a trained network and write scores, metrics and curves."""


def main(
    *,
    cube,
    cube_record,
    real_stars,
    split,
    model,
    train_record,
    scores,
    metrics,
    curves,
    options,
    threshold_rule,
    seed,
    protocol,
    experiment_name="",
):
    """Evaluate.

    Parameters
    ----------
    cube, cube_record, real_stars, split, model, train_record : path
        ``cube.npz``, ``cube.json``, ``real_stars.npz``, the split's CSV, ``model.keras``, ``train.json``.
    scores, metrics, curves : path
        Files written: CSV, JSON and CSV.
    options : dict
        Keys of the config section ``evaluate``.
    threshold_rule : {'gmean', 'f1', 'f1-mcc', 'platt'}
    seed : int
        Seed of the bootstrap.
    protocol : {'grouped', 'paper'}
    experiment_name : str
        Name of the experiment, for the record.
    """
    import numpy as np

    from otrain_core.arrays import read_stack
    from otrain_core.cubes.cube import kept_false_share
    from otrain_core.evaluation.evaluate import evaluate_scores
    from otrain_core.io import read_json, read_table, write_json, write_table
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.predict import score_cube, score_real_stars

    arrays, trained, network = read_stack(cube, mmap=("cube",)), read_json(train_record), load_model(model)
    table = score_cube(network, arrays, read_table(split))
    check = score_real_stars(network, read_stack(real_stars, mmap=("cube",)), table) if protocol == "grouped" else None
    result, points = evaluate_scores(
        table,
        arrays,
        rng=np.random.default_rng(seed),
        threshold_rule=threshold_rule,
        protocol=protocol,
        kept_false=kept_false_share(read_json(cube_record)),
        real_stars=check,
        **options,
    )
    result["headline"]["train_seconds"] = trained["train_seconds"]
    about = {key: str(arrays[key]) for key in ("telescope", "pipeline") if key in arrays}
    write_table(scores, table)
    write_json(metrics, {**about, "experiment": experiment_name, "seed": trained["seed"], **result})
    write_table(curves, points)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            cube=snakemake.input.cube,
            cube_record=snakemake.input.cube_record,
            real_stars=snakemake.input.real_stars,
            split=snakemake.input.split,
            model=snakemake.input.model,
            train_record=snakemake.input.train_record,
            scores=snakemake.output.scores,
            metrics=snakemake.output.metrics,
            curves=snakemake.output.curves,
            options=snakemake.params.options,
            threshold_rule=snakemake.params.threshold_rule,
            seed=int(snakemake.wildcards.seed),
            protocol=snakemake.params.protocol,
            experiment_name=snakemake.wildcards.experiment,
        )
