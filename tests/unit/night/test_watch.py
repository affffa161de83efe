"""Watch of a folder: complete files only, each once."""

import gzip
import os
import shutil
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.night import watch as module
from otrain_core.night.watch import MOST_VERSIONS, is_whole, watch, whole_images
from tests.unit.synthetic_night import Stop


def frame(path, value=0.0):
    fits.PrimaryHDU(np.full((50, 60), value, np.float32)).writeto(path)
    return path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_still_written(tmp_path, share, compressed):
    data = frame(tmp_path / "whole.fits").read_bytes()
    name = "part.fits.gz" if compressed else "part.fits"
    data = gzip.compress(np.random.default_rng(1).bytes(20000)) if compressed else data
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    assert is_whole(tmp_path / name) == (share == 1.0)


@pytest.mark.parametrize(
    "content",
    [
        b"\x1f\x8b\x08" + bytes(6) + b"\x03" + b"\x07" * 5000,  # a gzip header without compressed data
        gzip.compress(bytes(5000))[:-8] + b"\xff" * 8,  # wrong checksum
    ],
)
def test_damaged_files_are_given_out_to_be_refused(tmp_path, content):
    (tmp_path / "bad.fits.gz").write_bytes(content)
    good = frame(tmp_path / "good.fits")
    assert set(watch(tmp_path, once=True, stop=threading.Event())) == {tmp_path / "bad.fits.gz", good}


def test_what_lies_in_the_folder_of_the_nights_is_no_image_of_the_night(tmp_path):
    (tmp_path / "nights").mkdir()
    image = frame(tmp_path / "a.fits")
    for name in ("a.fits", "part.fits"):
        (tmp_path / "nights" / name).write_bytes(image.read_bytes()[:3000])
        os.utime(tmp_path / "nights" / name, (0, 0))
    assert list(watch(tmp_path, once=True, stop=threading.Event(), without=tmp_path / "nights")) == [image]


def test_a_subfolder_that_is_deleted_during_a_look(tmp_path, monkeypatch):
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(frame(tmp_path / name / "a.fits"))

    def delete_the_other(path):
        shutil.rmtree(paths[path == paths[0]].parent)
        return True

    monkeypatch.setattr(module, "is_whole", delete_the_other)
    (found,) = whole_images(tmp_path)
    assert found in paths


def test_images_within_the_folder_of_the_nights(tmp_path):
    (tmp_path / "incoming").mkdir()
    image = frame(tmp_path / "incoming/a.fits")
    assert list(watch(tmp_path / "incoming", once=True, stop=threading.Event(), without=tmp_path)) == [image]


def test_once(tmp_path):
    (tmp_path / "deeper").mkdir()
    paths = [frame(tmp_path / "b.fits", 1), frame(tmp_path / "deeper/a.fit", 2)]
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "part.fits").write_bytes(paths[0].read_bytes()[:3000])
    assert sorted(watch(tmp_path, once=True, stop=threading.Event())) == sorted(paths)


def test_what_stays_truncated_is_given_out_at_last(tmp_path, caplog):
    data = frame(tmp_path / "whole.fits").read_bytes()
    for name, age in (("written.fits", 0), ("truncated.fits", 3600)):
        (tmp_path / name).write_bytes(data[:3000])
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert [path.name for path in watch(tmp_path, once=True, stop=threading.Event())] == [
        "whole.fits",
        "truncated.fits",
    ]
    assert caplog.messages == [
        f"{tmp_path / 'written.fits'}: is still being written and is put off; run again when it is complete"
    ]


def test_a_file_that_changes_at_every_look_is_put_off(tmp_path, caplog):
    changing, other = frame(tmp_path / "changing.fits"), frame(tmp_path / "other.fits")
    found = []
    for path in watch(tmp_path, once=True, stop=Stop()):
        found.append(path)
        if path == changing:  # as if another program wrote it again during the search
            os.utime(changing, (len(found), len(found)))
    assert (found.count(changing), found.count(other)) == (MOST_VERSIONS, 1)
    assert caplog.messages == [
        f"{changing}: changed {MOST_VERSIONS} times during the search and is put off; run again when it is complete"
    ]
    assert set(watch(tmp_path, once=True, stop=Stop())) == {changing, other}


def test_files_that_come_later(tmp_path):
    stop, found = Stop(), []
    frame(tmp_path / "first.fits", 1)
    idle = []
    for path in watch(tmp_path, once=False, stop=stop, settle=0.05, look=0.2, idle=lambda: idle.append(len(found))):
        found.append(path.name)
        if path.name == "first.fits":
            shutil.copy(path, tmp_path / ".second.tmp")
            (tmp_path / ".second.tmp").rename(tmp_path / "second.fits")
        else:
            stop.set()
    assert found == ["first.fits", "second.fits"] and 1 in idle  # called before waiting for the second


def test_a_file_that_is_deleted_again_is_not_waited_for(tmp_path, monkeypatch):
    path, stop, waited = frame(tmp_path / "temporary.fits"), Stop(), []

    class Changed(threading.Event):
        def wait(self, timeout):
            waited.append(timeout)
            path.unlink(missing_ok=True)
            if len(waited) == 2:
                stop.set()

    monkeypatch.setattr(module, "_changes", lambda folder: nullcontext(Changed()))
    assert list(watch(tmp_path, once=False, stop=stop, settle=1000.0, look=2000.0)) == []
    assert waited == [1000.0, 2000.0]


def test_the_looks_themselves_call_for_no_look(tmp_path, monkeypatch):
    """Every look opens an incomplete file, and the system reports this too."""
    stop, looks = Stop(), []
    frame(tmp_path / "part.fits")
    os.truncate(tmp_path / "part.fits", 3000)

    def look(*arguments, **options):
        looks.append(time.monotonic())
        if len(looks) == 4:
            stop.set()
        return whole_images(*arguments, **options)

    monkeypatch.setattr(module, "whole_images", look)
    assert list(watch(tmp_path, once=False, stop=stop, look=0.3)) == []
    assert np.diff(looks).min() > 0.25


def test_a_file_that_fills_without_a_change_of_its_size_and_time(tmp_path, monkeypatch):
    path, known = frame(tmp_path / "a.fits"), set()
    data = path.read_bytes()
    path.write_bytes(data[:80] + bytes(len(data) - 80))  # like a file that has its full size from the start
    os.utime(path, (1e9, 1e9))
    assert whole_images(tmp_path, known) == []
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))
    assert whole_images(tmp_path, known) == [path]
    monkeypatch.setattr("otrain_core.night.watch.is_whole", lambda path: pytest.fail("read again"))
    assert whole_images(tmp_path, known) == [path]
