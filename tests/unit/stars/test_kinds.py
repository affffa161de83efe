from otrain_core.plan.pipelines import InjectOptions
from otrain_core.stars.kinds import REAL_KINDS


def test_real_stars_and_injected_sources_have_kinds_of_their_own():
    assert REAL_KINDS == ("removed", "transplanted", "vanished")
    assert not set(REAL_KINDS) & set(InjectOptions().mix)
