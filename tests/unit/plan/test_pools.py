"""Pools of telescopes, and the source that fine-tuning starts from."""

from otrain_core.plan.pools import is_pool, left_out, plan_pools, source_without

FIVE = ["JAST/gmadet", "JAST/stdpipe", "TACA/gmadet", "FRAM-CTA-N/gmadet", "TCA/gmadet"]


def test_plan_of_the_papers_cubes():
    pools = plan_pools(FIVE)
    assert sorted(pools) == sorted(
        ["pool/gmadet", *(f"pool-without-{name}/gmadet" for name in ("JAST", "TACA", "FRAM-CTA-N", "TCA"))]
    )
    assert pools["pool-without-JAST/gmadet"] == ["FRAM-CTA-N/gmadet", "TACA/gmadet", "TCA/gmadet"]
    for name, members in pools.items():
        assert is_pool(name.split("/")[0])
        assert left_out(name.split("/")[0]) not in [cube.split("/")[0] for cube in members]
    assert plan_pools(["A/p", "B/p"]) == {"pool/p": ["A/p", "B/p"]}  # one other telescope is no pool
    assert plan_pools(["A/p", "A/q"]) == {}


def test_source_of_fine_tuning_has_never_seen_the_telescope():
    assert source_without("TCA/gmadet", FIVE) == "pool-without-TCA/gmadet"
    assert source_without("JAST/stdpipe", FIVE) == "pool-without-JAST/gmadet"
    assert source_without("A/p", ["A/p", "B/q", "C/p"]) == "C/p"
    assert source_without("A/p", ["A/p", "A/q"]) is None
