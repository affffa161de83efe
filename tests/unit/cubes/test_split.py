import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.arrays import write_arrays
from otrain_core.cubes import footprints, split
from otrain_core.cubes.footprints import guard_distances, unit_vectors
from otrain_core.cubes.split import SETS, check_split, split_files, split_random, summarise_split
from otrain_core.errors import CubeError
from otrain_core.plan.config import SplitOptions

SCALE, SEEING, SIZE = 5.0, 2.0, 16  # arcsec/px, px, px


def fake_cube(n_images=30, per_class=40, offset=(4.0, 2.0), width=400, height=300, seed=0, dec0=45.0, stars=150):
    """Images of one field, each shifted by `offset` px; the False are at the same stars in all of them."""
    rng = np.random.default_rng(seed)
    reach = np.abs(np.array(offset)) * n_images + [width, height]
    star = rng.uniform([0, 0], reach, (max(stars, int(stars * reach.prod() / (width * height))), 2))
    sky, image, label = [], [], []
    for k in range(n_images):
        corner = np.array(offset) * k
        seen = star[((star >= corner) & (star < corner + [width, height])).all(axis=1)]
        false = seen[rng.choice(len(seen), min(per_class, len(seen)), replace=False)]
        sky.append(rng.uniform(corner, corner + [width, height], (per_class, 2)))
        sky.append(false + rng.normal(0, 0.3, false.shape))
        label += [1] * per_class + [0] * len(false)
        image += [f"im{k:03d}"] * (per_class + len(false))
    sky = np.concatenate(sky) * SCALE / 3600
    n = len(sky)
    return {
        "cube": np.zeros((n, SIZE, SIZE, 1), np.float32),
        "labels": np.array(label, np.uint8),
        "candids": np.array([f"{name}-{k:05d}" for k, name in enumerate(image)]),
        "images": np.array(image),
        "ra": 10 + sky[:, 0] / np.cos(np.deg2rad(dec0)),
        "dec": dec0 + sky[:, 1],
        "seeing": np.full(n, SEEING) * rng.uniform(0.9, 1.2, n),
        "pixel_scale": np.full(n, SCALE),
    }


def split_cube(cube, *, seed, guard=4.0, fields=None):
    return split.split_cube(cube, seed=seed, options=SplitOptions(guard=guard), fields=fields)


def without_wcs(cube):
    return cube | {"ra": np.full(len(cube["labels"]), np.nan), "dec": np.full(len(cube["labels"]), np.nan)}


OWN_FIELDS = {"offset": (3000.0, 0.0), "n_images": 20}


@pytest.mark.parametrize(
    "cube", [fake_cube(**OWN_FIELDS), without_wcs(fake_cube(n_images=20))], ids=["apart", "no WCS"]
)
def test_images_of_separate_fields_are_not_divided(cube):
    table = split_cube(cube, seed=1)
    check_split(table, cube, guard=4.0)
    assert table["field"].nunique() == 20 and (table["cell"] == 0).all()
    assert (table["set"] != "unused").all()
    assert (table.groupby("image")["set"].nunique() == 1).all()
    counts = table["set"].value_counts(normalize=True)
    np.testing.assert_allclose(counts[list(SETS)], [0.6, 0.15, 0.25], atol=0.051)
    for name in SETS:
        assert 0.3 < table.loc[table["set"] == name, "label"].mean() < 0.7


def test_images_of_one_field_are_split_by_image_and_sky():
    cube = fake_cube()
    table = split_cube(cube, seed=1, guard=4.0)
    check_split(table, cube, guard=4.0)
    assert table["field"].nunique() == 1 and set(table["cell"]) == {1, 2, 3}
    used = table[table["set"] != "unused"]
    assert (used.groupby("image")["set"].nunique() == 1).all()
    assert (used.groupby("cell")["set"].nunique() == 1).all()
    # 45 % can be used without the guard distance, which reduces it.
    assert 0.3 < len(used) / len(table) < 0.6
    share = used["set"].value_counts(normalize=True)
    assert share["validation"] > 0.03 and share["test"] > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_no_two_sets_come_near_each_other(seed):
    # All pairs by brute force, independent of the tree in check_split.
    cube = fake_cube(n_images=12, seed=seed)
    table = split_cube(cube, seed=seed, guard=3.0)
    vectors = unit_vectors(cube["ra"], cube["dec"])
    guards = guard_distances(cube, 3.0)
    sets = table["set"].to_numpy(str)
    for one in SETS:
        i, j = np.flatnonzero(sets == one), np.flatnonzero((sets != one) & (sets != "unused"))
        apart = np.linalg.norm(vectors[i][:, None] - vectors[j], axis=2)
        assert (apart >= (guards[i][:, None] + guards[j]) / 2 * (1 - 1e-6)).all()


def test_the_split_depends_on_the_seed_only():
    cube = fake_cube(**OWN_FIELDS)
    pd.testing.assert_frame_equal(split_cube(cube, seed=3), split_cube(cube, seed=3))
    assert (split_cube(cube, seed=3)["set"] != split_cube(cube, seed=4)["set"]).any()


def test_right_ascension_zero_is_no_border():
    cube = fake_cube(n_images=10)
    cube["ra"] = np.mod(cube["ra"] - 10.3, 360)
    assert np.ptp(cube["ra"]) > 350
    table = split_cube(cube, seed=1)
    assert table["field"].nunique() == 1
    check_split(table, cube, guard=4.0)


def test_many_fields_of_several_images_are_not_divided():
    parts = []
    for k in range(12):
        part = fake_cube(n_images=4, seed=k, per_class=20)
        part["ra"], part["dec"] = part["ra"] + 3 * k, part["dec"]
        part["images"] = np.char.add(f"f{k:02d}", part["images"])
        part["candids"] = np.char.add(f"f{k:02d}", part["candids"])
        parts.append(part)
    cube = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    table = split_cube(cube, seed=1)
    check_split(table, cube, guard=4.0)
    assert table["field"].nunique() == 12 and (table["set"] != "unused").all()
    assert (table.groupby("field")["set"].nunique() == 1).all()


def test_given_fields():
    cube = fake_cube(**OWN_FIELDS)
    fields = {
        name: "left" if name < "im005" else "right" if name < "im012" else "middle" for name in set(cube["images"])
    }
    table = split_cube(cube, seed=1, fields=fields)
    assert table["field"].nunique() == 3
    with pytest.raises(CubeError, match="provide a WCS"):
        split_cube(without_wcs(cube), seed=1, fields=dict.fromkeys(cube["images"], "one"))


def one_class_in_two_images():
    cube = fake_cube(n_images=4, offset=(3000.0, 0.0))
    cube["labels"] = np.where(np.isin(cube["images"], ["im000", "im001"]), cube["labels"], 1).astype(np.uint8)
    return cube


@pytest.mark.parametrize(
    "cube, match",
    [
        (fake_cube(n_images=2), "candidates of 2 images; training, validation and test need at least three"),
        ({key: value for key, value in fake_cube(n_images=3).items() if key != "images"}, "key images"),
        (fake_cube(n_images=3) | {"images": np.full(240, "")}, "key images"),
        (one_class_in_two_images(), "no False candidate is left for"),
        (fake_cube(n_images=5) | {"pixel_scale": np.full(400, np.nan)}, "seeing and pixel_scale"),
    ],
)
def test_bad_input(cube, match):
    with pytest.raises(CubeError, match=match):
        split_cube(cube, seed=1)


def test_check_finds_every_leak():
    cube = fake_cube()
    good = split_cube(cube, seed=1)
    check_split(good, cube, guard=4.0)
    with pytest.raises(CubeError, match="arcsec apart"):
        check_split(good, cube, guard=40.0)

    table = good.copy()
    image = table.loc[table["set"] == "test", "image"].iloc[0]
    table.loc[table.index[(table["image"] == image) & (table["set"] == "unused")][:1], "set"] = "train"
    with pytest.raises(CubeError, match=f"image {image} is in test and train, which must be independent"):
        check_split(table, cube, guard=4.0)

    table = good.copy()
    train_images = set(table.loc[table["set"] == "train", "image"])
    table.loc[table["image"].isin(train_images), "set"] = "train"
    with pytest.raises(CubeError, match="arcsec apart; independent sets need .* arcsec"):
        check_split(table, cube, guard=4.0)

    with pytest.raises(CubeError, match="same candidates"):
        check_split(good.iloc[::-1], cube, guard=4.0)
    with pytest.raises(CubeError, match="set validation does not have both classes"):
        check_split(good.assign(set=good["set"].replace("validation", "unused")), cube, guard=4.0)


def test_random_split_of_the_paper():
    cube = fake_cube(n_images=10)
    table = split_random(cube, seed=1)
    assert (table["set"] == "train").mean() == pytest.approx(0.85, abs=0.001)
    assert set(table["set"]) == {"train", "test"}
    assert (table.groupby("image")["set"].nunique() == 2).all()  # by cutout, as in the paper: images leak
    pd.testing.assert_frame_equal(table, split_random(cube, seed=1))
    assert (table["set"] != split_random(cube, seed=2)["set"]).any()
    with pytest.raises(CubeError, match="too few"):
        split_random({key: value[:3] for key, value in cube.items()}, seed=1)


def test_files_and_summary(tmp_path):
    cube = fake_cube(n_images=8, per_class=20, offset=(3000.0, 0.0))
    n = len(cube["labels"])
    extra = {"mags": np.ones(n), "errmags": np.ones(n), "filters": np.full(n, "R"), "fwhms": np.ones(n)}
    write_arrays(tmp_path / "cube.npz", cube | extra | {"channels": np.array(["difference"])})
    for name in ("a", "b"):
        split_files(
            cube=tmp_path / "cube.npz",
            split=tmp_path / f"{name}.csv",
            random_split=tmp_path / f"{name}_random.csv",
            record=tmp_path / f"{name}.json",
            seed=1,
            options=SplitOptions(),
        )
    for kind in (".csv", "_random.csv", ".json"):
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()
    table = io.read_table(tmp_path / "a.csv")
    assert list(table.columns) == ["index", "candid", "image", "label", "field", "cell", "set"]
    assert table["candid"].tolist() == cube["candids"].tolist()
    counts = summarise_split(table)
    assert counts == io.read_json(tmp_path / "a.json")["by-image"]
    assert sum(c["n_true"] + c["n_false"] for c in counts["sets"].values()) == n == counts["n_candidates"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": None}, "key 'images' is missing"),
        ({"cube": np.zeros((640, 16, 16), np.float32)}, r"shape \(N, H, W, C\) is needed"),
        ({"seeing": np.ones(3)}, r"seeing has the shape \(3,\) for 640 cutouts"),
    ],
)
def test_a_cube_that_cannot_be_split_is_refused(tmp_path, change, match):
    cube = fake_cube(n_images=8) | change
    write_arrays(tmp_path / "cube.npz", {key: value for key, value in cube.items() if value is not None})
    paths = {key: tmp_path / key for key in ("split", "random_split", "record")}
    with pytest.raises(CubeError, match=match):
        split_files(cube=tmp_path / "cube.npz", seed=1, options=SplitOptions(), **paths)
    assert not paths["split"].exists()


def on_grid(cube, field="field M31", lost=None):
    """The same cube of images without a WCS, all aligned with one reference: places on its grid [arcsec]."""
    lost = np.ones(len(cube["labels"]), bool) if lost is None else lost
    grid = {
        "grid_x": (cube["ra"] - 10) * np.cos(np.deg2rad(45.0)) * 3600,
        "grid_y": (cube["dec"] - 45) * 3600,
        "fields": np.where(lost, field, "field other"),
    }
    grid["grid_x"], grid["grid_y"] = (np.where(lost, grid[name], np.nan) for name in ("grid_x", "grid_y"))
    sky = {name: np.where(lost, np.nan, cube[name]) for name in ("ra", "dec")}
    return cube | grid | sky


def closest_pair(cube, table):
    """Smallest distance [px] between candidates of different sets on the true sky."""
    x = (cube["ra"] - 10) * np.cos(np.deg2rad(45.0)) * 3600 / SCALE
    y = (cube["dec"] - 45) * 3600 / SCALE
    used, sets = (table["set"] != "unused").to_numpy(), table["set"].to_numpy(str)
    distance = np.hypot(x[used][:, None] - x[used], y[used][:, None] - y[used])
    return distance[sets[used][:, None] != sets[used]].min()


def test_images_without_a_wcs_are_split_on_the_grid_of_their_reference():
    sky = fake_cube()
    cube = on_grid(sky)
    table = split_cube(cube, seed=1)
    check_split(table, cube, guard=4.0)
    assert table["field"].nunique() == 1 and (table["set"] == "unused").any()
    assert closest_pair(sky, table) > SIZE / np.sqrt(2) + 4 * 0.9 * SEEING
    assert footprints.sky_by(cube) == "reference" and footprints.sky_by(sky) == "positions"
    # If each image is taken for a separate field, the same residuals are in train and test.
    leaking = split_cube(without_wcs(sky), seed=1)
    assert closest_pair(sky, leaking) < 2
    with pytest.raises(CubeError, match="arcsec apart"):
        check_split(leaking, cube, guard=4.0)


def test_images_with_and_without_a_wcs_of_one_field_are_compared_on_its_grid():
    sky = fake_cube()
    cube = on_grid(sky)
    some = np.isin(cube["images"], ["im000", "im007", "im020"])
    for name in ("ra", "dec"):
        cube[name] = np.where(some, sky[name], np.nan)
    table = split_cube(cube, seed=1)
    assert table["field"].nunique() == 1 and closest_pair(sky, table) > SIZE / np.sqrt(2)


def test_fields_without_a_wcs_are_apart_and_their_images_are_not():
    sky = fake_cube(n_images=12)
    names = np.array(["field A", "field B", "field C", "field D"])
    cube = on_grid(sky) | {"fields": names[np.unique(sky["images"], return_inverse=True)[1] % 4]}
    table = split_cube(cube, seed=1)
    assert table["field"].nunique() == 4 and (table["set"] != "unused").all()
    assert (table.assign(name=cube["fields"]).groupby("name")["set"].nunique() == 1).all()
    assert footprints.sky_by(cube) == "reference"
    files = np.array([name.replace("field", "reference") for name in cube["fields"]])  # may show the same sky
    assert footprints.sky_by(cube | {"fields": files}) == "unknown"


def test_a_named_field_without_positions_is_not_divided(tmp_path):
    sky = fake_cube(n_images=12)
    number = np.unique(sky["images"], return_inverse=True)[1]
    names = np.array(["field A", "field B", "field C", "field D"])[number % 4]
    cube = without_wcs(sky) | {"fields": names, "grid_x": np.full(len(names), np.nan)}
    cube["grid_y"] = cube["grid_x"]
    table = split_cube(cube, seed=1)
    assert (table.assign(name=names).groupby("name")["set"].nunique() == 1).all()
    with pytest.raises(CubeError, match="provide a WCS"):
        split_cube(cube | {"fields": np.full(len(names), "field A")}, seed=1)
    assert footprints.sky_by(without_wcs(sky)) == "unknown"
    write_arrays(tmp_path / "cube.npz", without_wcs(sky))
    paths = {key: tmp_path / key for key in ("split", "random_split", "record")}
    split_files(cube=tmp_path / "cube.npz", seed=1, options=SplitOptions(), **paths)
    assert io.read_json(paths["record"])["sky"] == "unknown"
