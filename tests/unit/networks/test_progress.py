import io
import logging
import os
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from otrain_core.networks import architecture, loop, progress
from otrain_core.plan.config import Experiment
from tests.unit.tiny_network import tiny_network

pytestmark = pytest.mark.xdist_group("tensorflow")

ROW = {"loss": 0.5, "accuracy": 0.75, "validation_loss": 0.4, "validation_accuracy": 0.8}


def test_durations():
    assert [progress._duration(seconds) for seconds in (9.4, 75, 7500)] == ["9 s", "1 min 15 s", "2 h 5 min"]


def test_the_time_left_counts_all_epochs_to_come(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    stream = io.StringIO()
    bar = progress.Progress(stream=stream)
    for epoch in (8, 9, 10):  # resumed: no epoch has been timed yet
        bar.begin(epoch, 10, 4)
        clock[0] += 60
        bar.end(ROW)
    headings = [line for line in stream.getvalue().splitlines() if line.startswith("epoch")]
    assert headings == ["epoch 8/10", "epoch 9/10, 2 min 0 s left", "epoch 10/10, 1 min 0 s left"]


def read_all(leader: int, into: list[bytes]) -> None:
    try:
        while len(into) < 1000 and (part := os.read(leader, 4096)):
            into.append(part)
    except OSError:  # how the end of a terminal looks
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_a_log_line_elsewhere(monkeypatch, caplog, terminal):
    leader, follower = os.openpty() if terminal else os.pipe()
    stream = os.fdopen(follower, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    drawn: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(leader, drawn), daemon=True)  # a terminal holds 4 kB only
    reader.start()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(20, 9, 9, 1)).astype(np.float32), np.arange(20) % 2
    experiment = Experiment(inputs=["difference"], epochs=2, batch_size=5, min_batches=1, augment=False)
    body = architecture.without_input_stage(tiny_network("otrain2", size=9))
    with caplog.at_level(logging.INFO, logger="otrain"):
        bar = progress.progress_on_terminal()
        loop.Loop(body, data, data, experiment=experiment, seed=1, weights=None, progress=bar).run()
    stream.close()
    reader.join(30)
    assert not reader.is_alive()
    os.close(leader)
    text = b"".join(drawn).decode()
    assert len([line for line in caplog.messages if re.match(r"epoch +\d/2  loss", line)]) == 2
    if terminal:
        assert "epoch 1/2" in text and re.search(r"epoch 2/2, \d+ s left", text)
        assert "1/4" in text and text.count("validation_loss") == 2
    else:
        assert text == ""
