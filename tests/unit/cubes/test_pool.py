import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.cubes import pool
from otrain_core.cubes.cube_format import no_rows, read_cube
from otrain_core.errors import CubeError
from otrain_core.io import read_json, read_table, write_json, write_table
from tests.unit.synthetic_cube import make_cube, make_split


def telescope(number, n=120, size=12):
    """A telescope whose pixels are all its number, but for the candidate's, which is the row."""
    cube = make_cube(n, size=3, n_images=12, seed=number)
    pixels = np.full((n, size, size, 4), float(number), np.float32)
    pixels[:, size // 2, size // 2, 0] = np.arange(n)
    pixels[:, 0, 0, 0] = np.nan  # lost by a crop
    return {**cube, "cube": pixels, "pixel_scale": np.full(n, 0.5 * number)}


@pytest.fixture
def three():
    cubes = {"A": telescope(1, size=12), "B": telescope(2, n=300, size=15), "C": telescope(3, n=200, size=10)}
    return cubes, {name: make_split(cube) for name, cube in cubes.items()}


def test_rows_stay_together(three):
    cubes, splits = three
    arrays, split = pool.pool_cubes(cubes, splits, channels=["difference", "mask"])
    pool.check_pool(arrays, split)
    assert arrays["cube"].shape == (620, 10, 10, 2) and split["index"].tolist() == list(range(620))
    for name, number in (("A", 1), ("B", 2), ("C", 3)):
        mine = np.flatnonzero(arrays["telescopes"] == name)
        rows = arrays["cube"][mine, 5, 5, 0].astype(int)  # the candidate's pixel survives the crop
        assert rows.tolist() == list(range(len(cubes[name]["labels"])))
        assert (arrays["cube"][mine, 1, 1, 0] == number).all() and (arrays["pixel_scale"][mine] == number / 2).all()
        for key in ("labels", "mags", "seeing", "artefacts"):
            assert np.array_equal(arrays[key][mine], cubes[name][key][rows], equal_nan=key == "mags")
        assert arrays["images"][mine].tolist() == [f"{name}:{image}" for image in cubes[name]["images"]]
        assert split["set"].iloc[mine].tolist() == splits[name]["set"].tolist()
    # Images of one name at two telescopes are two images; the corner is missing only where nothing was cut.
    assert split["image"].nunique() == 36
    assert arrays["n_missing"][arrays["telescopes"] == "C"].min() == 1
    assert arrays["n_missing"][arrays["telescopes"] == "A"].max() == 0


def test_a_column_that_a_telescope_lacks_is_missing_there(three):
    cubes, splits = three
    del cubes["B"]["pixel_scale"], cubes["B"]["kinds"]
    arrays, _ = pool.pool_cubes(cubes, splits)
    of_b = arrays["telescopes"] == "B"
    assert np.isnan(arrays["pixel_scale"][of_b]).all() and np.isfinite(arrays["pixel_scale"][~of_b]).all()
    assert (arrays["kinds"][of_b] == "").all()


def one_of(split, name):
    return split.index[split["set"] == name][0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays, split: arrays["telescopes"].__setitem__(0, "T"), "without T has cutouts of T"),
        (lambda arrays, split: arrays["images"].__setitem__(0, "T:I00"), "without T has cutouts of T"),
        (lambda arrays, split: split.loc.__setitem__((one_of(split, "train"), "set"), "test"), "is in two sets"),
        (
            lambda arrays, split: split.loc.__setitem__((split["set"] == "validation", "label"), 1),
            "validation of the pool does not have both classes",
        ),
        (lambda arrays, split: arrays["candids"].__setitem__(0, "other"), "do not list the same"),
    ],
)
def test_a_pool_with_dependent_sets_is_refused(three, change, match):
    arrays, split = pool.pool_cubes(*three)
    pool.check_pool(arrays, split, without="T")
    change(arrays, split)
    with pytest.raises(CubeError, match=match):
        pool.check_pool(arrays, split, without="T")


def test_cubes_that_cannot_be_pooled_are_refused(three):
    cubes, splits = three
    with pytest.raises(CubeError, match="at least two telescopes, found 1"):
        pool.pool_cubes({"A": cubes["A"]}, {"A": splits["A"]})
    with pytest.raises(CubeError, match="telescope A: the split and the cube"):
        pool.pool_cubes(cubes, {**splits, "A": splits["B"]})
    with pytest.raises(CubeError, match="channel 'template' is not in the cube"):
        pool.pool_cubes(cubes, splits, channels=["template"])


@pytest.mark.parametrize("name", ["pool", "pool-without-T"])
def test_files_are_those_of_a_cube(three, name, tmp_path):
    files = {"cubes": [], "splits": [], "records": [], "real_stars": []}
    for key in three[0]:
        cube, split = three[0][key], three[1][key]
        n_false = int((cube["labels"] == 0).sum())
        write_arrays(tmp_path / f"{key}.npz", cube)
        write_arrays(tmp_path / f"{key}-stars.npz", no_rows(cube) if key == "A" else cube)
        write_table(tmp_path / f"{key}.csv", split)
        write_json(tmp_path / f"{key}.json", {"n_false": n_false, "n_labelled_false": 2 * n_false})
        for kind, ending in zip(files, (".npz", ".csv", ".json", "-stars.npz"), strict=True):
            files[kind].append(str(tmp_path / f"{key}{ending}"))
    out = tmp_path / "out"
    pool.pool_files(
        **files,
        cube=out / "cube.npz",
        pooled_stars=out / "pooled_stars.npz",
        cube_record=out / "cube_record.json",
        split_record=out / "split_record.json",
        split=out / "split.csv",
        telescopes=["A", "B", "C"],
        name=name,
        pipeline="p",
        seed=1,
        channels=["difference"],
    )
    cube, split = read_cube(out / "cube.npz"), read_table(out / "split.csv")
    sets = {"train", "validation", "test"} if name == "pool" else {"train", "validation"}
    assert set(split["set"]) == sets and len(split) == len(cube["labels"]) and str(cube["telescope"]) == name
    assert cube["cube"].shape[1:] == (10, 10, 1)
    for key, other in three[1].items():  # an image of the test set is in the pool of all only, as test
        tested = [f"{key}:{image}" for image in other.loc[other["set"] == "test", "image"]]
        assert set(split.loc[split["image"].isin(tested), "set"]) <= {"test"} & sets
    assert read_json(out / "split_record.json")["sky"] == "unknown"  # none of them has a sky position
    record = read_json(out / "cube_record.json")
    assert record["n_labelled_false"] == pytest.approx(2 * record["n_false"], abs=1)
    assert record["telescopes"]["B"]["train"] == (three[1]["B"]["set"] == "train").sum()
    assert len(read_cube(out / "pooled_stars.npz", both_classes=False)["labels"]) == 500
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["cube.npz", "pooled_stars.npz", "cube_record.json", "split_record.json", "split.csv"]
    )
