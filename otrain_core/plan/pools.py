"""Pools of telescopes, and the source that fine-tuning starts from."""

from __future__ import annotations

from collections.abc import Sequence

POOL = "pool"  # a pool of telescopes stands where a telescope would
WITHOUT = f"{POOL}-without-"
DRAWN = f"{POOL}-drawn/all"  # cube of all telescopes drawn at random, whatever their pipelines


def is_pool(telescope: str) -> bool:
    """Whether a name is that of a pool; no telescope may bear one."""
    return telescope in (POOL, DRAWN.split("/")[0]) or telescope.startswith(WITHOUT)


def left_out(telescope: str) -> str | None:
    """The telescope that a pool is without, None for the pool of all and for a telescope."""
    return telescope.removeprefix(WITHOUT) if telescope.startswith(WITHOUT) else None


def plan_pools(cubes: Sequence[str], *, pooled: bool = True, leave_one_out: bool = True) -> dict[str, list[str]]:
    """Pools that the cubes of a run allow, with the cubes that each is made of.

    Parameters
    ----------
    cubes : sequence of str
        As telescope/pipeline.
    pooled : bool
        The pool of all telescopes of a pipeline, where there are two or more.
    leave_one_out : bool
        For each telescope the pool of the others, where these are two or more.

    Returns
    -------
    dict of str to list of str
        ``pool/{pipeline}`` and ``pool-without-{telescope}/{pipeline}`` to sorted cubes.
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
    """Cube whose models have never seen the telescope of `target`, to start fine-tuning from.

    The pool without it under the same pipeline; else under another one; else the cube of one
    other telescope; None where the run has one telescope only.
    """
    telescope, pipeline = target.split("/")
    pools = plan_pools(cubes, pooled=False)
    others = [cube for cube in sorted(set(cubes)) if cube.split("/")[0] != telescope]
    found = [name for name in pools if left_out(name.split("/")[0]) == telescope] or others
    return min(found, key=lambda name: (name.split("/")[1] != pipeline, name), default=None)
