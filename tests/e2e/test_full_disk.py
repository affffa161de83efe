"""A full or read-only disk: a small real file system in memory, which only root can mount."""

import shutil
import subprocess

import pytest

from otrain_core.arrays import write_arrays
from otrain_core.cli.main import main
from otrain_core.errors import OtrainError
from otrain_core.night import night as module
from tests.unit.night.test_night import a_night, images, run
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_night import Stop, write_pair
from tools.kill import problems

SIZE = 4096  # size of the disk [kB]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("night"))


@pytest.fixture
def disk(tmp_path):
    """A file system of size `SIZE`."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}k", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk, *, free):
    """Write a file that leaves the given number of kB free."""
    filler = disk / "filler"
    filler.write_bytes(b"x" * 1024 * (SIZE - free))
    return filler


@pytest.mark.parametrize("free", [0, 64, 128, 192])  # too small for the ledger, its first entry, the stamps, the tables
def test_a_night_says_so_in_one_sentence_and_goes_on_later(pair, disk, tmp_path, free):
    night = a_night(images(tmp_path / "images", pair[0], 1), disk / "nights", pair)
    filler = fill(disk, free=free)
    with pytest.raises(OtrainError, match=f"^{disk}/nights.*: no space left; free some and run again") as raised:
        run(night)
    assert "\n" not in str(raised.value)
    filler.unlink()
    assert run(night)["done"] == 1
    assert problems(disk / "nights", 1) == []
    left = [path.name for path in disk.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert left == []  # no half-written file


def test_a_watching_night_waits_for_space(pair, disk, tmp_path, caplog):
    night = a_night(images(tmp_path / "images", pair[0], 2), disk / "nights", pair)
    filler, waits = fill(disk, free=128), []

    class NoWait(Stop):
        def wait(self, timeout=None):
            waits.append(timeout)
            assert len(waits) < 10 * module.MAX_TRIES, caplog.messages[-1]
            if len(waits) > module.MAX_TRIES + 1:  # more tries than an image has before it is refused
                filler.unlink(missing_ok=True)
            return self.is_set()

    stop, told = NoWait(), []

    def tell(text):
        told.append(text)
        if len(told) == 2:
            stop.set()

    assert night.run(once=False, stop=stop, tell=tell) == {"done": 2, "refused": 0, "left_out": 0, "known": 0}
    assert problems(disk / "nights", 2) == []
    assert f"{disk}/nights" in caplog.text and "no space left; trying again in 30 s" in caplog.text


def test_temporary_files_without_space_refuse_no_image(pair, disk, tmp_path, monkeypatch):
    """The image is not refused; it is searched when there is space."""
    night = a_night(images(tmp_path / "images", pair[0], 1), tmp_path / "nights", pair)
    filler = fill(disk, free=200)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(OtrainError, match=f"^{disk}/otrain-work-.*: no space left"):
        run(night)
    filler.unlink()
    assert run(night) == {"done": 1, "refused": 0, "left_out": 0, "known": 0}


def test_a_search_says_so_in_one_sentence(pair, disk, capsys):
    science, reference, model = map(str, pair)
    fill(disk, free=16)
    assert main(["search", science, "--reference", reference, "-m", model, "-o", str(disk / "out"), "--quiet"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("otrain search: ")]
    assert str(disk / "out") in line and line.endswith(": No space left on device")


@pytest.fixture
def read_only(disk, pair):
    """The file system with an image and a folder, mounted read-only."""
    for name in ("images", "there"):
        (disk / name).mkdir()
    shutil.copy(pair[0], disk / "images/image.fits")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk


def told(capsys, verb):
    """The one-sentence error message of a command."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"otrain {verb}: ")]
    return line


@pytest.mark.parametrize("name", ["there", "new"])
def test_a_place_of_results_that_is_read_only_is_named(pair, read_only, tmp_path, name, capsys, monkeypatch):
    science, reference, model = map(str, pair)
    out = ["-m", model, "-o", str(read_only / name), "--quiet"]
    monkeypatch.setattr("otrain_core.cli.search.search_image", lambda *_, **__: pytest.fail("searched in vain"))
    assert main(["search", science, "--reference", reference, *out]) == 1
    assert str(read_only / name) in told(capsys, "search")
    assert main(["night", str(read_only / "images"), "--once", "--references", reference, *out]) == 1
    assert str(read_only / name) in told(capsys, "night")
    write_arrays(tmp_path / "cube.npz", cube := make_cube(40, size=13, n_images=4))
    rows = [f"tiny,{candid},{bool(label)}\n" for candid, label in zip(cube["candids"], cube["labels"], strict=True)]
    (tmp_path / "labels.csv").write_text("telescope,candid,label\n" + "".join(rows))
    labels = ["--labels", str(tmp_path / "labels.csv"), "-o", str(read_only / name)]
    assert main(["train", str(tmp_path / "cube.npz"), *labels]) == 1
    assert told(capsys, "train").endswith(": Read-only file system")


def test_images_that_are_read_only_are_searched(pair, read_only, tmp_path):
    assert run(a_night(read_only / "images", tmp_path / "nights", pair))["done"] == 1
