"""Labels given by people: combining answers, finding the candidate of a row, and the labels of the cube."""

import numpy as np
import pytest

from otrain_core import io
from otrain_core.arrays import read_arrays, write_arrays
from otrain_core.cubes.cube import build_cube, cube_files, real_star_cube
from otrain_core.cubes.labels import agreed, override_labels
from otrain_core.errors import ConfigError, CubeError
from otrain_core.plan.config import CubeOptions
from otrain_core.plan.sheets import read_labels

ALL = CubeOptions(true_fraction=None, min_per_class=1, channels=["difference"])
T, F, U = "True", "False", "unsure"


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        ([T], 1),
        ([F], 0),
        ([U], -1),
        ([T, T], 1),
        ([T, F], -1),
        ([T, U], -1),
        ([T, T, F], 1),
        ([F, U, F], 0),
        ([T, F, U], -1),
        ([T, T, F, F], -1),
        ([T, T, T, F], 1),
        ([T, T, T, F, F], -1),
        ([T, T, T, T, F, U], 1),
    ],
)
def test_two_thirds_must_agree(answers, label):
    assert agreed(answers) == agreed(answers[::-1]) == label


def columns(**changed):
    """Four candidates: an injected one, two False, one at the edge."""
    made = {
        "image": ["a", "a", "b", "b"],
        "candid": ["T-a-1", "T-a-2", "T-b-1", "T-b-2"],
        "x": [10.0, 20.0, 10.0, 50.0],
        "y": [10.0, 10.0, 10.0, 50.0],
        "label": [1, 0, 0, -1],
        "edge": [False, False, False, True],
        "reason": ["injection 7 at 0.20 FWHM", "no injection", "no injection", "EDGE"],
        "kind": ["random", "", "", ""],
        "artefact": ["", "cosmic", "", ""],
        "injection": [7, -1, -1, -1],
    }
    return {key: np.array(value) for key, value in (made | changed).items()}


def row(label, who="anna", *, telescope="T", **named):
    named = {"pipeline": "p", "candid": None, "image": None, "x": None, "y": None, "before": None, "when": None} | named
    return {"telescope": telescope, "label": label, "who": who, **named}


def override(rows, **changed):
    return override_labels(columns(**changed), rows, telescope="T", pipeline="p")


def test_labels_reasons_and_counts():
    rows = [row(T, candid="T-a-2"), row(F, candid="T-a-1"), row(U, "bo", candid="T-b-1"), row(T, candid="T-b-2")]
    new, record = override(rows)
    assert new["label"].tolist() == [0, 1, -1, -1]
    assert new["label_before"].tolist() == [1, 0, 0, -1]
    assert new["reason"].tolist()[:3] == ["labelled by hand, 1 of 1"] * 2 + ["labelled by hand: unsure"]
    # A True that nobody injected is no kind of injection, and no artefact; a False has no injection.
    assert new["kind"].tolist() == ["", "by hand", "", ""] and new["artefact"].tolist() == [""] * 4
    assert new["injection"].tolist() == [-1, -1, -1, -1]
    counts = {"n_rows": 4, "n_edge": 1, "n_void": 0, "n_not_found": 0, "n_candidates": 3, "n_changed": 3}
    assert counts.items() <= record.items() and record["people"] == {"anna": 2, "bo": 1}
    assert (record["n_true"], record["n_false"], record["n_left_out"]) == (1, 1, 1)


def test_a_confirmed_label_keeps_its_kind():
    new, record = override([row(T, candid="T-a-1"), row(T, "bo", candid="T-a-1"), row(F, "cy", candid="T-a-1")])
    assert new["label"][0] == 1 and new["injection"][0] == 7 and new["kind"][0] == "random"
    assert new["reason"][0] == "labelled by hand, 2 of 3" and record["n_changed"] == 0


def test_the_later_answer_of_a_person_counts():
    later, sooner = (
        row(T, candid="T-a-2", when="2026-01-02T00:00:00"),
        row(F, candid="T-a-2", when="2026-01-01T00:00:00"),
    )
    for rows in ([later, sooner], [sooner, later]):
        assert override(rows)[0]["label"][1] == 1


def test_the_position_identifies_a_candidate_with_a_new_number():
    seen = row(T, candid="T-a-1", image="a", x=20.4, y=9.8, before="False")  # was number 1 of another run
    new, _ = override([seen])
    assert new["label"].tolist() == [1, 1, 0, -1] and new["reason"][1].startswith("labelled by hand")
    assert override([row(T, image="a", x=20.4, y=9.8)])[0]["label"][1] == 1
    assert override([row(T, image="a", x=20.4, y=13.0)])[1]["n_not_found"] == 1
    assert override([row(T, image="b", x=20.4, y=9.8)])[1]["n_not_found"] == 1
    assert override([row(T, candid="T-a-2", image="b")])[1]["n_not_found"] == 1
    nowhere = np.full(4, np.nan)  # cutouts of a folder
    assert override([row(T, candid="T-a-2", image="a", x=20.0, y=10.0)], x=nowhere, y=nowhere)[0]["label"][1] == 1


def test_a_row_is_void_if_a_source_was_injected_or_removed_since():
    void = [row(F, candid="T-a-1", before="False"), row(T, candid="T-a-2", before="True")]
    new, record = override(void)
    assert new["label"].tolist() == [1, 0, 0, -1] and record["n_void"] == 2 and record["n_candidates"] == 0
    assert override([row(T, candid="T-a-2", before="left out")])[0]["label"][1] == 1


def test_rows_of_other_telescopes_and_pipelines_are_ignored():
    rows = [row(T, telescope="S", candid="T-a-2"), row(T, candid="T-a-2", pipeline="q")]
    assert override(rows)[1]["n_rows"] == 0
    assert override([row(T, candid="T-a-2", pipeline=None)])[1]["n_changed"] == 1


def stack_of(image, labels, kinds=None):
    n = len(labels)
    made = {key: np.full(n, 1.0) for key in ("mag", "magerr", "fwhm", "ra", "dec", "snr", "seeing", "pixel_scale")}
    made |= {key: np.full(n, "") for key in ("filter", "artefact", "time")}
    made |= {"x": 10.0 * np.arange(n), "y": np.full(n, 5.0), "label": np.array(labels), "edge": np.zeros(n, bool)}
    made |= {"candid": np.array([f"T-{image}-{k}" for k in range(n)]), "image": np.full(n, image)}
    made |= {"reason": np.full(n, "why"), "injection": np.full(n, -1), "n_missing": np.zeros(n, int)}
    made |= {"kind": np.array(kinds or [""] * n), "channels": np.array(["difference"])}
    return made | {"stack": np.zeros((n, 9, 9, 1), np.float32), "image_name": np.array(image)}


def test_the_cube_has_the_labels_of_the_sheet():
    stacks = [stack_of("a", [1, 1, 1, 0, 0, 0, -1])]
    rows = [row(T, candid="T-a-3"), row(U, candid="T-a-0"), row(F, candid="T-a-6")]
    arrays, record = build_cube(stacks, seed=1, options=ALL, labels=rows, telescope="T", pipeline="p")
    assert dict(zip(arrays["candids"], arrays["labels"], strict=True)) == {
        **{"T-a-1": 1, "T-a-2": 1, "T-a-3": 1},
        **{"T-a-4": 0, "T-a-5": 0, "T-a-6": 0},
    }
    assert arrays["labels_before"].tolist() == [1, 1, 0, 0, 0, -1]
    assert arrays["reasons"][2] == "labelled by hand, 1 of 1"
    assert record["labels"]["n_changed"] == 3 and record["n_left_out"] == 1
    assert "labels_before" not in build_cube(stacks, seed=1, options=ALL)[0]
    with pytest.raises(CubeError, match="only 0 True"):
        rows = [row(F, candid=f"T-a-{k}") for k in range(3)]
        build_cube(stacks, seed=1, options=ALL, labels=rows, telescope="T", pipeline="p")


def test_a_real_star_that_people_label_false_is_left_out():
    stacks = [stack_of("a", [1, 1, 0], ["removed", "transplanted", ""])]
    sheet = [row(F, candid="T-a-0")]
    real = real_star_cube(stacks, channels=["difference"], labels=sheet, telescope="T", pipeline="p")
    assert real["candids"].tolist() == ["T-a-1"]


def test_sheet_as_people_write_it(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("telescope,candid,label,who\nT,T-a-3,TRUE,Zoë\nT,T-a-1,unsure,\n")
    read = read_labels(path)
    assert [(one["candid"], one["label"], one["who"]) for one in read] == [
        ("T-a-3", "True", "Zoë"),
        ("T-a-1", "unsure", ""),
    ]
    write_arrays(tmp_path / "a.npz", stack_of("a", [1, 1, 1, 0, 0, 0]))
    cube_files(
        stacks=[tmp_path / "a.npz"],
        cube=tmp_path / "cube.npz",
        real_stars=tmp_path / "real.npz",
        record=tmp_path / "cube.json",
        telescope="T",
        pipeline="p",
        seed=1,
        labels=path,
        options=ALL,
    )
    assert read_arrays(tmp_path / "cube.npz")["labels"].tolist() == [1, 1, 1, 0, 0]
    assert io.read_json(tmp_path / "cube.json")["labels"]["people"] == {"": 1, "Zoë": 1}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("telescope,candid,label\nT,c,maybe\n", "labels.csv, row 2: label: .*'True', 'False' or 'unsure'.*'maybe'"),
        ("telescope,image,label\nT,a,True\n", "give candid, or image, x and y"),
        ("telescope,candid,x,label\nT,c,4,True\n", "x, y: give both or neither"),
        ("telescope,candid,lable\nT,c,True\n", "lable: unknown column; did you mean 'label'"),
        ("telescope,candid,label\nT,c\n", "row 2: must have as many cells"),
    ],
)
def test_bad_sheet(tmp_path, text, match):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_labels(tmp_path / "labels.csv")
