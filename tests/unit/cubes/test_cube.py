import os
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from otrain_core import io
from otrain_core.arrays import write_arrays
from otrain_core.candidates.cutouts import CHANNELS
from otrain_core.cubes.cube import build_cube, cube_files, real_star_cube
from otrain_core.cubes.cube_format import CUBE_COLUMNS, TABLE1, read_cube
from otrain_core.errors import CubeError, ImageError
from otrain_core.jobs.job import _mark_outputs
from otrain_core.plan.config import CubeOptions
from tests.unit.cubes.test_cube_folders import folders as folders


def stack_of(image, labels, size=9, edge=(), first=1):
    """Cutouts of one image; the difference of every candidate is filled with a number of its own."""
    n = len(labels)
    value = 1000 * int(image[1:]) + np.arange(first, first + n)
    stack = np.zeros((n, size, size, len(CHANNELS)), np.float32)
    stack[..., 0], stack[..., 1] = value[:, None, None], -value[:, None, None]
    text = {
        "filter": "R",
        "reason": "why",
        "artefact": "",
        "time": "2020-01-01",
        "image": image,
        "method": "difference",
        "kind": "random",
    }
    arrays = {"stack": stack, "label": np.array(labels), "edge": np.isin(np.arange(n), edge)}
    arrays |= {key: np.full(n, word) for key, word in text.items()}
    arrays["candid"] = np.array([f"T-{image}-{k:04d}" for k in range(first, first + n)], dtype="U16")
    for column in ("mag", "magerr", "fwhm", "x", "y", "ra", "dec", "snr", "seeing", "pixel_scale"):
        arrays[column] = value.astype(float)
    arrays |= {"injection": np.full(n, -1), "n_missing": np.zeros(n, int), "channels": np.array(CHANNELS)}
    return arrays | {"image_name": np.array(image), "telescope": np.array("T"), "pipeline": np.array("p")}


def without_psf(stack):
    return stack | {"stack": stack["stack"][..., :4], "channels": stack["channels"][:4]}


def three_images():
    rng = np.random.default_rng(1)
    return [stack_of(f"i{k}", rng.choice([1, 0, 0, -1], 60)) for k in (1, 2, 3)]


def section(**changed):
    return CubeOptions(**({"channels": ["difference"], "min_per_class": 2} | changed))


def build(stacks, *, seed=1, **given):
    changed = {key: given.pop(key) for key in list(given) if key in CubeOptions.model_fields}
    return build_cube(stacks, seed=seed, options=section(**changed), **given)


def test_keys_order_and_content():
    stacks = three_images()
    arrays, record = build(stacks, channels=CHANNELS, true_fraction=None)
    assert list(arrays)[:7] == list(TABLE1)
    assert set(CUBE_COLUMNS) <= set(arrays)
    n = sum((stack["label"] >= 0).sum() for stack in stacks)
    assert arrays["cube"].shape == (n, 9, 9, len(CHANNELS)) and arrays["cube"].dtype == np.float32
    assert arrays["labels"].dtype == np.uint8
    # Every cutout still belongs to its row.
    np.testing.assert_array_equal(arrays["cube"][:, 4, 4, 0], arrays["mags"])
    np.testing.assert_array_equal(arrays["cube"][:, 4, 4, 1], -arrays["mags"])
    truth = {c: lab for stack in stacks for c, lab in zip(stack["candid"], stack["label"], strict=True)}
    assert [truth[c] for c in arrays["candids"]] == arrays["labels"].tolist()
    keys = list(zip(arrays["images"], arrays["candids"], strict=True))
    assert keys == sorted(keys)
    assert record["n_candidates"] == 180 and record["n_true"] + record["n_false"] == n
    assert record["n_left_out"] == 180 - n


def test_balance_is_random_over_all_images_and_seeded():
    stacks = three_images()
    arrays, record = build(stacks)
    assert record["n_true"] == record["n_false"] == record["n_labelled_true"] < record["n_labelled_false"]
    kept = [c for c, lab in zip(arrays["candids"], arrays["labels"], strict=True) if lab == 0]
    everything = [c for s in stacks for c, lab in zip(s["candid"], s["label"], strict=True) if lab == 0]
    assert kept != everything[: len(kept)] and kept != everything[-len(kept) :]
    assert {c[2:4] for c in kept} == {"i1", "i2", "i3"}
    other, _ = build(stacks, seed=2)
    assert other["candids"].tolist() != arrays["candids"].tolist()


def test_candidates_at_the_edge_and_without_label_are_left_out():
    stacks = [stack_of("i1", [1, 1, 0, 0, -1, 1], edge=[1]), stack_of("i2", [0, 0, 1, 1], edge=[0])]
    arrays, record = build(stacks, true_fraction=None)
    assert record["n_edge"] == 2 and record["n_left_out"] == 1
    assert not {"T-i1-0002", "T-i2-0001", "T-i1-0005"} & set(arrays["candids"].tolist())


def test_missing_pixels_are_counted():
    stack = stack_of("i1", [1, 1, 0, 0])
    stack["stack"][2, :2, 0, 0] = np.nan
    stack["n_missing"][2] = 2
    arrays, record = build([stack])
    assert record["n_with_missing_pixels"] == 1 and record["n_missing_pixels"] == 2
    np.testing.assert_array_equal(arrays["n_missing"], np.isnan(arrays["cube"][..., 0]).sum(axis=(1, 2)))


def with_real_stars():
    stacks = three_images()
    for stack in stacks:
        true = np.flatnonzero(stack["label"] == 1)
        kinds = np.full(len(stack["label"]), "", dtype="U12")
        kinds[true] = "random"
        kinds[true[:2]], kinds[true[2]] = "removed", "transplanted"
        stack["kind"] = kinds
        stack["edge"][true[0]] = True
    return stacks


def test_real_stars_are_in_a_separate_cube():
    stacks = with_real_stars()
    arrays, record = build(stacks, true_fraction=None)
    assert not set(arrays["kinds"]) & {"removed", "transplanted"}
    real = real_star_cube(stacks, channels=["difference"], telescope="T", pipeline="p")
    assert sorted(real["kinds"].tolist()) == ["removed"] * 3 + ["transplanted"] * 3
    assert (real["labels"] == 1).all() and real["cube"].shape == (6, 9, 9, 1)
    np.testing.assert_array_equal(real["cube"][:, 4, 4, 0], real["mags"])
    assert not set(real["candids"]) & set(arrays["candids"])
    assert list(real) == list(arrays)
    assert record["n_labelled_real_stars"] == 6 and set(record["kinds"]) == {"random"}
    joined, record = build(stacks, true_fraction=None, real_stars=True)
    assert len(joined["labels"]) == len(arrays["labels"]) + 6
    assert record["kinds"]["removed"] == record["kinds"]["transplanted"] == 3


def test_without_real_stars_their_cube_is_empty(tmp_path):
    real = real_star_cube([*three_images(), stack_of("i9", [])], channels=CHANNELS)
    assert real["cube"].shape == (0, 9, 9, len(CHANNELS)) and real["cube"].dtype == np.float32
    assert all(len(real[key]) == 0 for key in (*CUBE_COLUMNS, "labels", "n_missing"))
    write_arrays(tmp_path / "real.npz", real)
    assert read_cube(tmp_path / "real.npz", both_classes=False)["candids"].dtype.kind == "U"
    with pytest.raises(CubeError, match="labels: both classes are needed"):
        read_cube(tmp_path / "real.npz")


@pytest.mark.parametrize("join", [False, True])
def test_files_of_real_stars(tmp_path, join):
    paths = []
    for stack in with_real_stars():
        paths.append(str(tmp_path / f"{stack['image_name']}.npz"))
        write_arrays(paths[-1], stack)
    names = {"telescope": "T", "pipeline": "p"}
    out = {key: tmp_path / f"{key}.npz" for key in ("cube", "real_stars")}
    options = section(channels=["difference", "mask"], true_fraction=None, real_stars=join)
    cube_files(stacks=paths, record=tmp_path / "r.json", seed=1, options=options, **out, **names)
    cube, real = read_cube(out["cube"]), read_cube(out["real_stars"], both_classes=False)
    assert real["cube"].shape == (0 if join else 6, 9, 9, 2)
    assert np.isin(cube["kinds"], ["removed", "transplanted"]).sum() == (6 if join else 0)
    assert io.read_json(tmp_path / "r.json")["real_stars"] == ({} if join else {"removed": 3, "transplanted": 3})


def test_the_advice_is_in_the_record():
    stacks = [stack_of(f"i{k}", [1] * 30 + [0] * 4) for k in (1, 2, 3)]
    for stack in stacks:
        stack["injection"][:30] = np.arange(30)
    _, record = build(stacks)
    assert record["advice"][0] == "78 of 90 True are discarded to balance 12 False"
    assert build([stack_of("i1", [1, 0, 0] * 10)])[1]["advice"] == []


def test_duplicate_cutouts_are_left_out_and_counted():
    rng = np.random.default_rng(4)
    stacks = [stack_of(f"i{k}", [1, 0] * 10) for k in (1, 2, 3)]
    for stack in stacks:
        stack["stack"][..., 0] = rng.normal(0, 5, stack["stack"].shape[:3])
    stacks[1]["stack"][:4] = stacks[0]["stack"][:4]  # the same image under another name
    stacks[2]["stack"][0] = stacks[2]["stack"][1]  # one cutout under both labels
    arrays, record = build(stacks, true_fraction=None)
    gone = {f"T-i2-{k:04d}" for k in (1, 2, 3, 4)} | {"T-i3-0001", "T-i3-0002"}
    assert len(arrays["labels"]) == 54 and not gone & set(arrays["candids"].tolist())
    copies = record["copies"]
    assert (copies["n_copies"], copies["n_across_images"], copies["n_both_labels"]) == (10, 8, 2)
    assert copies["n_left_out"] == 6 and copies["examples"][0] == ["T-i1-0001", "T-i2-0001"]


def test_a_cube_of_duplicates_with_both_labels_is_refused():
    stacks = [stack_of(f"i{k}", [1, 0] * 3) for k in (1, 2)]
    pixels = np.random.default_rng(4).normal(0, 5, (3, 9, 9)).astype(np.float32)
    for stack in stacks:
        stack["stack"][..., 0] = np.repeat(pixels, 2, axis=0)
    with pytest.raises(
        CubeError, match="only 0 True cutouts are left, because 12 of 12 cutouts .* 12 of them with both"
    ):
        build(stacks)


def test_same_bytes_for_same_input_in_any_order(tmp_path):
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        stacks = three_images()
        write_arrays(tmp_path / f"{name}.npz", build([stacks[k] for k in order])[0])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_fields_and_positions_on_the_reference_are_kept():
    stacks = three_images()
    for stack in stacks[:2]:
        n = len(stack["label"])
        stack |= {"field": np.full(n, "field M31"), "grid_x": stack["x"] / 2, "grid_y": stack["y"] / 3}
    arrays, _ = build(stacks, true_fraction=None)
    known = arrays["images"] != "i3"
    assert set(arrays["fields"][known]) == {"field M31"} and set(arrays["fields"][~known]) == {""}
    np.testing.assert_array_equal(arrays["grid_x"][known], arrays["x"][known] / 2)
    assert np.isnan(arrays["grid_y"][~known]).all()


def test_an_image_without_candidates_is_accepted():
    arrays, record = build([*three_images(), stack_of("i9", [])])
    assert record["n_images"] == 4 and record["n_images_used"] == 3
    assert arrays["candids"].dtype.kind == "U"


FAILED = [{"image": "i7", "step": "psf", "key": "data", "message": "all pixels are NaN"}]


@pytest.mark.parametrize(
    "stacks, options, match",
    [
        ([], {}, "no images"),
        ([], {"failed": FAILED}, "1 of 1 images failed.*i7: data: all pixels are NaN"),
        ([stack_of("i1", [1, 0] * 5)], {"failed": FAILED * 3, "max_failed_fraction": 0.5}, "3 of 4 images failed"),
        (
            [stack_of("i1", [1] * 9)],
            {},
            "only 0 False cutouts were labelled; both classes are needed; to get 1 more, add images or lower detect.thr",
        ),
        ([stack_of("i1", [0] * 9)], {}, "only 0 True cutouts"),
        (
            [stack_of("i1", [0] * 9 + [1])],
            {},
            "only 1 True cutouts were labelled; cube.min_per_class is 2; to get 1 more, add images or raise inject",
        ),
        ([stack_of("i1", [1, 0] * 9)], {"max_cutouts": 2}, "left after balancing"),
        ([stack_of("i1", [1, 0] * 5), stack_of("i1", [1, 0] * 5)], {}, "image i1 was given twice"),
        (
            [without_psf(stack_of("i1", [1, 0] * 5))],
            {"channels": ["psf"]},
            r"image i1: no channel psf \(cube.channels\)",
        ),
        ([stack_of("i1", [1, 0] * 5), stack_of("i2", [1, 0] * 5, size=11)], {}, "different sizes"),
    ],
)
def test_bad_input(stacks, options, match):
    with pytest.raises(CubeError, match=match):
        build(stacks, **options)


def test_duplicate_candid():
    stack = stack_of("i1", [1, 0] * 5)
    stack["candid"][3] = stack["candid"][4]
    with pytest.raises(CubeError, match="candid T-i1-0005 occurs 2 times"):
        build([stack])


def test_a_cube_that_is_never_in_memory_is_the_same_file(tmp_path, monkeypatch):
    """Written some cutouts at a time, with more images than a process may have files open."""
    rng = np.random.default_rng(2)
    stacks = [stack_of(f"i{k}", rng.choice([1, 0, 0, -1], 12)) for k in range(80)]
    stacks[3]["kind"] = np.full(12, "removed")
    for stack in stacks:
        write_arrays(tmp_path / f"{stack['image_name']}.npz", stack)
    arrays, _ = build(stacks, channels=("mask", "difference"), telescope="T", pipeline="p")
    np.savez(tmp_path / "whole.npz", **arrays)
    real = real_star_cube(stacks, channels=("mask", "difference"), telescope="T", pipeline="p")
    assert len(real["labels"]) > 0
    np.savez(tmp_path / "real.npz", **real)
    monkeypatch.setattr("otrain_core.arrays.BLOCK", 7)
    written = {name: str(tmp_path / f"{name}.out") for name in ("cube", "real_stars", "record")}
    options = section(channels=["mask", "difference"])
    paths = [str(path) for path in sorted(tmp_path.glob("i*.npz"))]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        cube_files(stacks=paths, **written, telescope="T", pipeline="p", seed=1, options=options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Path(written["cube"]).read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert Path(written["real_stars"]).read_bytes() == (tmp_path / "real.npz").read_bytes()


def test_files_survive_a_failed_image(tmp_path, folders):
    paths = []
    for stack in three_images():
        paths.append(tmp_path / f"{stack['image_name']}.npz")
        write_arrays(paths[-1], stack)
    paths.append(tmp_path / "i4.npz")
    error = ImageError("i4", "SATURATE", "all saturated")
    _mark_outputs(SimpleNamespace(output=[str(paths[-1])], rule="psf"), error)
    arguments = {"cube": tmp_path / "cube.npz", "record": tmp_path / "cube.json", "telescope": "T", "pipeline": "p"}
    arguments["real_stars"] = tmp_path / "real_stars.npz"
    options = section(min_per_class=5)
    cube_files(stacks=paths, seed=1, options=options, **arguments)
    record = io.read_json(tmp_path / "cube.json")
    assert record["failed"] == [{"image": "i4", "step": "psf", "key": "SATURATE", "message": "all saturated"}]
    assert len(read_cube(tmp_path / "cube.npz")["labels"]) == record["n_true"] + record["n_false"]
    with pytest.raises(CubeError, match="1 of 4 images failed.*all saturated"):
        cube_files(stacks=paths, seed=1, options=section(max_failed_fraction=0.1), **arguments)
    paths[-1].unlink()
    with pytest.raises(CubeError, match="i4.npz: no such file; to make it again"):
        cube_files(stacks=paths, seed=1, options=options, **arguments)
    cube_files(stacks=[], folder=str(folders), seed=1, options=options, **arguments)
    assert io.read_json(tmp_path / "cube.json")["n_true"] == 6
    empty = read_cube(tmp_path / "real_stars.npz", both_classes=False)
    assert empty["cube"].shape == (0, 9, 9, 1) and empty["channels"].tolist() == ["difference"]
    assert set(read_cube(tmp_path / "cube.npz")["kinds"]) == {""}
