"""Errors: one sentence with the image, the key and the reason."""

import pickle

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
)


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
