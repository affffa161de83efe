"""Errors: one sentence with the image, the key and the reason."""

import pickle

import pytest

from otrain_core.errors import ConfigError, CubeError, ImageError, MissingProgramError, OtrainError, UpstreamFailed


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
