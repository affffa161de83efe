import logging
from types import SimpleNamespace

import numpy as np
import pytest

from otrain_core.networks import loop


def test_augmentation_draws_all_symmetries_and_loses_no_pixel():
    one = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    many = loop.turn_cutouts(np.repeat(one, 400, axis=0), np.random.default_rng(0).integers(0, 8, 400))
    kinds = np.unique(many.reshape(400, 9), axis=0)
    assert len(kinds) == 8
    assert np.all(np.sort(kinds, axis=1) == np.arange(9)) and np.all(kinds[:, 4] == 4)


def test_augmentation_leaves_a_plane_of_one_number_as_it_is():
    cutouts = np.random.default_rng(0).normal(size=(50, 5, 5, 2)).astype(np.float32)
    cutouts[..., 1] = np.arange(50)[:, None, None]
    turned = loop.turn_cutouts(cutouts, np.random.default_rng(0).integers(0, 8, 50))
    assert np.array_equal(turned[..., 1], cutouts[..., 1]) and not np.array_equal(turned, cutouts)


@pytest.mark.parametrize(
    ("losses", "keep", "line"),
    [
        ([0.5, 0.21, 0.3, 0.34], "best", "INFO validation loss rose from 0.21 (epoch 2) to 0.34: the kept epoch is 2"),
        (
            [0.5, 0.21, 0.34],
            "last",
            "WARNING validation loss rose from 0.21 (epoch 2) to 0.34: the last epoch is kept nevertheless",
        ),
        ([0.5, 0.21, 0.4, 0.23], "best", None),  # less than a tenth
        ([0.5, 0.4, 0.3], "last", None),
    ],
)
def test_a_model_that_gets_worse_is_noticed(caplog, losses, keep, line):
    history = [{"epoch": number, "validation_loss": loss} for number, loss in enumerate(losses, start=1)]
    state = SimpleNamespace(
        history=history, experiment=SimpleNamespace(keep=keep), kept_epoch=2 if keep == "best" else len(losses)
    )
    with caplog.at_level(logging.INFO, logger="otrain"):
        assert loop.Loop.got_worse(state) is (line is not None)
    told = [f"{record.levelname} {record.message}" for record in caplog.records]
    assert not told if line is None else len(told) == 1 and told[0].startswith(line)


@pytest.mark.parametrize(
    ("n", "batch_size", "min_batches", "passes"),
    [(40, 16, 32, 13), (300, 16, 32, 2), (3617, 112, 32, 1), (40, 16, 1, 1)],
)
def test_few_cutouts_are_passed_several_times_in_an_epoch(n, batch_size, min_batches, passes):
    experiment = SimpleNamespace(batch_size=batch_size, min_batches=min_batches)
    assert loop.passes(n, experiment) == passes
