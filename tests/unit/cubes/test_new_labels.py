"""Labels for the cutouts of a night: which rows count, and the resulting cube."""

import numpy as np
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.cubes.new_labels import label_cutouts, read_cutouts
from otrain_core.errors import CubeError


def cutouts(image, n=4, **changed):
    """A cube without labels of one image of a night."""
    rows = np.arange(n)
    columns = {
        "cube": np.full((n, 5, 5, 1), rows[:, None, None, None], np.float32),
        "labels": np.zeros(n, np.uint8),
        "candids": np.array([f"{image}_{k}" for k in rows]),
        "images": np.full(n, image),
        "x": 10.0 * rows,
        "y": 10.0 * rows,
        "snr": 5.0 + rows,
    }
    for key in ("mags", "errmags", "fwhms"):
        columns[key] = np.full(n, 1.0)
    alone = {"filters": np.full(n, "r"), "channels": np.array(["difference"]), "telescope": np.array("T")}
    return columns | alone | {"pipeline": np.array("builtin")} | changed


def row(candid, label, *, who="anna", telescope="T", x=None):
    values = {"telescope": telescope, "pipeline": "builtin", "image": candid[:2], "candid": candid, "label": label}
    return values | {"who": who, "x": x, "y": x, "before": "left out", "when": None}


def test_cutouts_get_the_label_on_which_people_agree(tmp_path):
    for image in ("n1", "n2"):
        write_arrays(tmp_path / f"{image}.npz", cutouts(image))
    cube = read_cutouts(tmp_path)
    assert len(cube["labels"]) == 8
    rows = [row("n1_0", "True"), row("n2_3", "False"), row("n2_1", "unsure"), row("n1_2", "True", telescope="other")]
    rows += [row("n1_1", "True"), row("n1_1", "False", who="bo")]  # people disagree
    rows += [row("n2_9", "True", x=20.5), row("n2_0", "True", x=35.0)]  # at a place; moved too far from its name
    found, record = label_cutouts(cube, rows, where="labels.csv")
    assert dict(zip(found["candids"].tolist(), found["labels"].tolist(), strict=True)) == {
        "n1_0": 1,
        "n2_2": 1,
        "n2_3": 0,
    }
    assert found["cube"][:, 0, 0, 0].tolist() == [0, 2, 3] and found["kinds"].tolist() == ["by hand", "by hand", ""]
    assert found["channels"].tolist() == ["difference"] and str(found["telescope"]) == "T"
    assert (record["n_not_found"], record["n_left_out"], record["n_true"]) == (1, 2, 2)


def test_cutouts_without_a_telescope_take_all_rows(tmp_path):
    cube = cutouts("n1", telescope=np.array(""), pipeline=np.array(""))
    found, _ = label_cutouts(cube, [row("n1_0", "True"), row("n1_1", "False")], where="labels.csv")
    assert found["labels"].tolist() == [1, 0]


def test_cutouts_that_cannot_be_used_for_training_are_refused(tmp_path):
    with pytest.raises(CubeError, match="labels.csv: 1 True and 0 False of T are labelled; both classes are needed"):
        label_cutouts(cutouts("n1"), [row("n1_0", "True")], where="labels.csv")
    with pytest.raises(CubeError, match="no cube"):
        read_cutouts(tmp_path)
    write_arrays(tmp_path / "a.npz", cutouts("n1"))
    write_arrays(tmp_path / "b.npz", cutouts("n2", telescope=np.array("U")))
    with pytest.raises(CubeError, match="differ in telescope"):
        read_cutouts(tmp_path)
    write_arrays(tmp_path / "b.npz", cutouts("n2", cube=np.zeros((4, 7, 7, 1), np.float32)))
    with pytest.raises(CubeError, match="differ in the size of their cutouts"):
        read_cutouts(tmp_path)
    write_arrays(tmp_path / "b.npz", cutouts("n2", artefacts=np.full(4, "")))
    with pytest.raises(CubeError, match="only some of the cubes in this folder have the keys artefacts"):
        read_cutouts(tmp_path)
