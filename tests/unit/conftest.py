"""Fixtures of several wings."""

import pytest

from tests.unit.synthetic_night import write_pair


@pytest.fixture(scope="session")
def night_pair(tmp_path_factory):
    """Paths of a science image, its reference and a model."""
    return write_pair(tmp_path_factory.mktemp("night"))
