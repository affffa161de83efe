"""A training on two devices of one CPU, in a process of its own: `python -m tests.unit.distributed`."""

from __future__ import annotations

import json
import sys

import numpy as np


def two_devices() -> None:
    """Have the back end see two devices, as if they were GPUs."""
    from otrain_core.networks import devices
    from otrain_core.networks.architecture import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        devices.seen_devices = lambda: [device.name for device in tf.config.list_logical_devices("CPU")]
    else:  # JAX is told by XLA_FLAGS
        devices.seen_devices = lambda: list(keras.distribution.list_devices("cpu"))


def compare(folder: str) -> dict:
    """Trainings with one and with two devices, and one that goes on from its checkpoint."""
    two_devices()
    from otrain_core.networks import architecture, predict, train
    from tests.unit.synthetic_cube import make_cube, make_split

    cube = make_cube(161, size=11)
    split = make_split(cube)
    # Neither dropout nor batch normalisation: what is left must not depend on the number of devices.
    dropout = architecture.layers.Dropout
    architecture.layers.Dropout = lambda rate: dropout(0.0)
    options = {"seed": 1, "network": "paper", "size": 9, "epochs": 2, "batch_size": 32, "keep": "last"}
    split = split.drop(split.index[split["set"] == "train"][: (split["set"] == "train").sum() % 2])
    one, first, _ = train.train_model(cube, split, gpus=1, **options)
    two, second, record = train.train_model(cube, split, gpus=2, **options)
    architecture.layers.Dropout = dropout
    architecture.save_model(two, f"{folder}/two.keras")
    loaded = architecture.load_model(f"{folder}/two.keras")
    cutouts = train.select_inputs(cube, inputs=["difference"], size=9)
    scores = [predict.score_cutouts(model, cutouts) for model in (one, two, loaded)]

    uneven = make_split(cube)
    if sum(uneven["set"] == "train") % 2 == 0:
        uneven = uneven.drop(uneven.index[uneven["set"] == "train"][:1])
    options = {"seed": 1, "network": "otrain2", "size": 9, "epochs": 3, "batch_size": 32, "keep": "best"}
    whole, history, _ = train.train_model(cube, uneven, **options)
    write = train.Loop._save

    def killed(self, epoch):
        write(self, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    train.Loop._save = killed
    try:
        train.train_model(cube, uneven, checkpoint=f"{folder}/checkpoint", **options)
    except KeyboardInterrupt:
        train.Loop._save = write
    again, history_again, resumed = train.train_model(cube, uneven, checkpoint=f"{folder}/checkpoint", **options)
    drop = ["seconds"]
    return {
        "n_devices": record["n_devices"],
        "weights": max(float(abs(a - b).max()) for a, b in zip(one.get_weights(), two.get_weights(), strict=True)),
        "moved": max(float(abs(weight).max()) for weight in one.get_weights()),
        "losses": [first["tune_loss"].tolist(), second["tune_loss"].tolist()],
        "scores": [float(abs(scores[0] - scores[1]).max()), float(abs(scores[1] - scores[2]).max())],
        "loss": history["loss"].tolist(),
        "n_train": int(sum(uneven["set"] == "train")),
        "resumed_at": resumed["resumed_at_epoch"],
        "same": bool(
            np.array_equal(history.drop(columns=drop).to_numpy(), history_again.drop(columns=drop).to_numpy())
        ),
        "same_weights": all(map(np.array_equal, whole.get_weights(), again.get_weights())),
    }


if __name__ == "__main__":
    print(json.dumps(compare(sys.argv[1])))
