import json
import os

import numpy as np
import pytest

from otrain_core.errors import ConfigError
from otrain_core.networks.checkpoint import Checkpoint

SHAPES = [(3,), (2, 2)]
ARRAYS = [np.arange(3.0), np.eye(2)]
STATE = {"history": [{"epoch": 1, "validation_loss": 0.1}], "best_loss": 0.1, "kept_epoch": 1}


@pytest.fixture
def saved(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", "mine")
    checkpoint.write(1, STATE, ARRAYS, ARRAYS[:1])
    checkpoint.release()
    return tmp_path / "c"


def read(folder, digest="mine", shapes=SHAPES):
    checkpoint = Checkpoint(folder, digest)
    found = checkpoint.read(shapes)
    checkpoint.release()
    return found


def test_what_was_written_is_read(saved):
    state, arrays, best = read(saved)
    assert state == STATE and all(map(np.array_equal, arrays, ARRAYS)) and np.array_equal(best[0], ARRAYS[0])


def test_only_the_last_epoch_and_the_best_are_kept(saved):
    checkpoint = Checkpoint(saved, "mine")
    for epoch in (2, 3):
        checkpoint.write(epoch, STATE, [array + epoch for array in ARRAYS], ARRAYS[:1])
    assert sorted(path.name for path in saved.iterdir()) == ["best1.npz", "epoch3.npz", "lock", "state.json"]
    assert np.array_equal(checkpoint.read(SHAPES)[1][0], ARRAYS[0] + 3)
    checkpoint.remove()
    assert not saved.exists()


@pytest.mark.parametrize("name", ["epoch1.npz", "best1.npz", "state.json"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_as_none(saved, name, left):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(len(content) * left)])
    assert read(saved) is None
    assert [path.name for path in saved.iterdir()] == ["lock"]


@pytest.mark.parametrize("change", [{"file": "absent.npz"}, {"history": None}, {"digest": "another"}])
def test_a_state_of_something_else_is_as_none(saved, change):
    state = json.loads((saved / "state.json").read_text()) | change
    (saved / "state.json").write_text(json.dumps({key: value for key, value in state.items() if value is not None}))
    assert read(saved) is None


def test_variables_of_another_network_are_as_none(saved):
    assert read(saved, shapes=[(3,), (2, 3)]) is None


def test_the_best_weights_of_another_training_are_not_taken_over(saved):
    assert read(saved, digest="other") is None
    other = Checkpoint(saved, "other")
    other.write(1, STATE, ARRAYS, [ARRAYS[0] + 7])
    assert np.array_equal(other.read(SHAPES)[2][0], ARRAYS[0] + 7)
    other.release()


def test_two_trainings_at_once_are_told(saved):
    first = Checkpoint(saved, "mine")
    with pytest.raises(ConfigError, match="c: another training writes its checkpoint here"):
        Checkpoint(saved, "mine")
    assert first.read(SHAPES) is not None  # the second has touched nothing
    first.release()
    second = Checkpoint(saved, "mine")
    second.remove()
    third = Checkpoint(saved, "mine")  # the folder is made anew, and held anew
    with pytest.raises(ConfigError):
        Checkpoint(saved, "mine")
    third.release()


def test_a_file_system_without_locks_is_no_hindrance(saved, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    assert read(saved) is not None


def test_a_lock_that_is_never_the_one_in_the_folder_ends(saved, monkeypatch):
    """On some file systems the inode number of a file changes with each request."""
    true = os.fstat
    monkeypatch.setattr("os.fstat", lambda file: os.stat_result((0, -1, *true(file)[2:])))
    with pytest.raises(ConfigError, match="c/lock: cannot be locked, because other trainings keep replacing it"):
        Checkpoint(saved, "mine")
