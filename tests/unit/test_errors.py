"""Errors: one sentence with the image, the key and the reason."""

import errno
import pickle
import sqlite3

import pytest

from otrain_core.errors import (
    ConfigError,
    CubeError,
    FileError,
    ImageError,
    MissingProgramError,
    OtrainError,
    UpstreamFailed,
    first_line,
    is_full,
)
from otrain_core.io import atomic


def test_an_image_error_names_image_and_key():
    error = ImageError("im1", "GAIN", "it is 0")
    assert str(error) == "image im1: GAIN: it is 0"
    assert (error.image, error.key, error.message) == ("im1", "GAIN", "it is 0")


def test_a_failure_of_an_earlier_step_is_an_image_error():
    assert issubclass(UpstreamFailed, ImageError)


@pytest.mark.parametrize("kind", [ConfigError, CubeError, ImageError, MissingProgramError])
def test_all_are_told_in_one_place(kind):
    assert issubclass(kind, OtrainError)


def test_an_error_crosses_processes():
    error = pickle.loads(pickle.dumps(ImageError("im1", "GAIN", "it is 0")))
    assert str(error) == "image im1: GAIN: it is 0"


def test_a_file_that_cannot_be_read_is_an_error_of_its_value_too():
    assert issubclass(FileError, OtrainError) and issubclass(FileError, ValueError)


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(EOFError()) == "EOFError"


def test_a_full_disk_is_known_behind_other_errors(tmp_path):
    def behind(first, *, hidden=False):
        try:
            try:
                raise first
            except type(first):
                if hidden:
                    raise OtrainError("the file cannot be read") from None
                raise
        except Exception as error:
            return error

    full = OSError(errno.ENOSPC, "No space left on device")
    assert (
        is_full(full)
        and is_full(behind(full, hidden=True))
        and is_full(OSError("Not enough space on disk: requested 5"))
    )
    assert not is_full(OSError(errno.EACCES, "Permission denied")) and not is_full(behind(ValueError("x"), hidden=True))
    with sqlite3.connect(tmp_path / "small") as base:
        base.execute("CREATE TABLE t (x)")
        base.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as raised:
            base.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert is_full(raised.value)


def test_errors_raised_from_one_another_are_looked_through_once():
    first, second = OSError(errno.EACCES, "Permission denied"), ValueError("x")
    first.__cause__, second.__context__ = second, first
    assert not is_full(first)


def test_a_file_that_does_not_fit_is_named(tmp_path):
    """What astropy says of a full disk has neither number nor name."""
    with pytest.raises(OSError) as raised, atomic(tmp_path / "diff.fits"):
        raise OSError("Not enough space on disk: requested 10, available 5.")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "diff.fits"))
    assert list(tmp_path.iterdir()) == []
