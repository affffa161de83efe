"""The cube of telescopes drawn at random."""

import numpy as np

from otrain_core.arrays import write_arrays
from otrain_core.cubes.cube_format import read_cube
from otrain_core.cubes.drawn import drawn_files
from otrain_core.io import read_json, read_table, write_json
from otrain_core.plan.config import CubeOptions
from tests.unit.cubes.test_cube import stack_of


def test_drawn_telescopes_are_split_whole_and_their_classes_reduced(tmp_path):
    stacks, telescopes = [], []
    rng = np.random.default_rng(3)
    for telescope_name in ("r0", "r1", "r2"):
        for image in ("i1", "i2"):
            stack = stack_of(image, [1] * 30 + [0] * 40 + [-1])
            stack["stack"] += rng.normal(size=stack["stack"].shape).astype(np.float32)
            stacks.append(tmp_path / f"{telescope_name}-{image}.npz")
            write_arrays(stacks[-1], stack)
            telescopes.append(telescope_name)
    stacks.append(tmp_path / "failed.npz")
    mark = {"image": "i3", "step": "psf", "key": "psf", "message": "no stars"}
    write_json(stacks[-1], {"otrain_failed": mark})
    telescopes.append("r2")
    files = {name: tmp_path / name for name in ("cube", "real_stars", "cube_record", "split", "split_record")}
    drawn_files(
        stacks=stacks,
        telescopes=telescopes,
        sets={"r0": "test", "r1": "validation", "r2": "train"},
        **files,
        name="pool-drawn",
        pipeline="all",
        seed=1,
        max_per_class=25,
        options=CubeOptions(channels=["difference", "mask"], min_per_class=1, max_failed_fraction=0.5),
    )
    arrays, split = read_cube(files["cube"]), read_table(files["split"])
    assert split.groupby(["telescope", "set", "label"]).size().tolist() == [25] * 6
    assert dict(zip(split["telescope"], split["set"], strict=True)) == {"r0": "test", "r1": "validation", "r2": "train"}
    assert split["candid"].tolist() == arrays["candids"].tolist() and split["image"].str.startswith("r").all()
    record = read_json(files["cube_record"])
    assert record["failed"] == [mark | {"image": "r2:i3"}]
    assert record["telescopes"]["r1"] == {"set": "validation", "n_images": 2, "n_true": 25, "n_false": 25}
