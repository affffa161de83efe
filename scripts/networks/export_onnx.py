"""Write a trained network as one ONNX file, with threshold, calibration and statistics of its training set."""

N_CHECKED = 512  # real cutouts on which the file is compared with the network


def main(*, cube, model, train_record, scores, metrics, onnx, seed):
    """Export.

    Parameters
    ----------
    cube, model, train_record, scores, metrics : path
        ``cube.npz``, ``model.keras``, ``train.json``, ``scores.csv`` and ``metrics.json``.
    onnx : path
        File written.
    seed : int
        Draws the cutouts of the check.
    """
    import numpy as np

    from otrain_core.cubes.cube import read_cube
    from otrain_core.cubes.inputs import select_inputs
    from otrain_core.io import read_json, read_table
    from otrain_core.networks.architecture import input_stage, load_model
    from otrain_core.networks.export_onnx import export_model, model_record

    arrays, network, rng = read_cube(cube, mmap=True), load_model(model), np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(arrays["labels"]))[:N_CHECKED])
    inputs = select_inputs(arrays, inputs=input_stage(network).channels, size=network.input_shape[1], rows=rows)
    about = model_record(read_json(metrics), read_json(train_record), arrays, read_table(scores))
    export_model(network, onnx, about=about, cutouts=inputs, rng=rng)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            cube=snakemake.input.cube,
            model=snakemake.input.model,
            train_record=snakemake.input.train_record,
            scores=snakemake.input.scores,
            metrics=snakemake.input.metrics,
            onnx=snakemake.output.onnx,
            seed=snakemake.params.seed,
        )
