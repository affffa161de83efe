"""Pools of telescopes, and the choice of the model from which fine-tuning starts."""

from __future__ import annotations

from collections.abc import Sequence

POOL = "pool"  # the results of a pool have its name in place of the name of a telescope
WITHOUT = f"{POOL}-without-"
DRAWN = f"{POOL}-drawn/all"  # cube of all random telescopes under all their pipelines


def is_pool(telescope: str) -> bool:
    """Whether a name is reserved for a pool."""
    return telescope in (POOL, DRAWN.split("/")[0]) or telescope.startswith(WITHOUT)


def left_out(telescope: str) -> str | None:
    """The telescope that is left out of a pool, None for a pool of all telescopes and for a telescope."""
    return telescope.removeprefix(WITHOUT) if telescope.startswith(WITHOUT) else None


def plan_pools(cubes: Sequence[str], *, pooled: bool = True, leave_one_out: bool = True) -> dict[str, list[str]]:
    """Pools that can be formed from the cubes of a run.

    Parameters
    ----------
    cubes : sequence of str
        Cubes, as telescope/pipeline.
    pooled : bool
        Form the pool of all telescopes of a pipeline that has two or more.
    leave_one_out : bool
        For each telescope, form the pool of the other telescopes if there are two or more.

    Returns
    -------
    dict of str to list of str
        Sorted cubes of each pool, by ``pool/{pipeline}`` and ``pool-without-{telescope}/{pipeline}``.
    """
    members: dict[str, list[str]] = {}
    for cube in sorted(set(cubes)):
        members.setdefault(cube.split("/")[1], []).append(cube)
    pools = {}
    for pipeline, mine in members.items():
        if pooled and len(mine) >= 2:
            pools[f"{POOL}/{pipeline}"] = mine
        if leave_one_out and len(mine) >= 3:
            for cube in mine:
                pools[f"{WITHOUT}{cube}"] = [other for other in mine if other != cube]
    return pools


def source_without(target: str, cubes: Sequence[str]) -> str | None:
    """Cube whose models were trained without the telescope of `target`, as the start of fine-tuning.

    The first choice is the pool without the telescope, then the cube of one other telescope; the same pipeline is
    preferred in both cases. None if the run has only one telescope.
    """
    telescope, pipeline = target.split("/")
    pools = plan_pools(cubes, pooled=False)
    others = [cube for cube in sorted(set(cubes)) if cube.split("/")[0] != telescope]
    found = [name for name in pools if left_out(name.split("/")[0]) == telescope] or others
    return min(found, key=lambda name: (name.split("/")[1] != pipeline, name), default=None)
