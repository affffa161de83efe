"""The plan of the paper, and results as a run of it would leave them."""

import pytest

from tests.unit.synthetic_paper import make_plan, write_paper


@pytest.fixture(scope="session")
def plan():
    with pytest.MonkeyPatch.context() as patch:
        return make_plan(patch)


@pytest.fixture(scope="session")
def results(plan, tmp_path_factory):
    return write_paper(tmp_path_factory.mktemp("paper"), plan)
