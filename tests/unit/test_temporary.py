"""Temporary folders: removed at the end, and by a later process where theirs was killed."""

import signal
import subprocess
import sys

import pytest

from otrain_core.temporary import remove_abandoned, temporary_folder

HOLD = "from otrain_core.temporary import temporary_folder as f\nwith f('job') as p:\n (p / 'a').write_text('x'); print(p, flush=True); input()"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of temporary files of this process and of those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    remove_abandoned.cache_clear()
    return tmp_path


def holding():
    """A process in such a folder, and the folder's path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_it_is_removed_at_the_end(place):
    with pytest.raises(ZeroDivisionError), temporary_folder("search") as folder:
        (folder / "psf.fits").write_bytes(b"x")
        assert folder.parent == place and "search" in folder.name
        raise ZeroDivisionError
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(place):
    for name in ("otrain-work-otherhost-job-x", "otrain-mine", "other"):
        (place / name).mkdir()
    kept = {path.name for path in place.iterdir()}
    killed, left = holding()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    alive, held = holding()  # it removes what the other one left
    try:
        assert left != held and {str(path) for path in place.iterdir()} == {held} | {str(place / name) for name in kept}
        with temporary_folder("image"):
            assert (place / held / "a").read_text() == "x"
    finally:
        alive.communicate("\n")
    assert {path.name for path in place.iterdir()} == kept


def test_folders_that_are_removed_at_once_end_in_an_error(place, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(place / "gone"))
    with pytest.raises(OSError, match=f"{place}: each new temporary folder is removed at once"), temporary_folder("x"):
        pass
