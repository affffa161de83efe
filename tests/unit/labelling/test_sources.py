"""What the labelling page opens: the cubes of a run with their trainings, and new candidates."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.arrays import read_arrays, write_arrays
from otrain_core.errors import OtrainError
from otrain_core.evaluation.calibrate import Calibration
from otrain_core.labelling.reasons import describe, worth_a_look
from otrain_core.labelling.sources import open_cubes, open_new
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_results import write_results
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture
def results(tmp_path):
    write_results(tmp_path, quality=1.5)
    return tmp_path


def test_cubes_of_a_run(results):
    (one,) = open_cubes(results)
    assert {training.name for training in one.trainings} == {"paper/seed1", "otrain2/seed1"}
    best, other = one.trainings
    assert best.validation_mcc >= other.validation_mcc
    record = io.read_json(results / "tiny/builtin/otrain2/seed1/metrics.json")
    otrain2 = next(training for training in one.trainings if training.name == "otrain2/seed1")
    table = pd.read_csv(results / "tiny/builtin/otrain2/seed1/scores.csv")
    np.testing.assert_allclose(otrain2.score[table["index"]], table["score"])
    # As the record counts them, on test, with a rule that leaves a good part open.
    rule = record["abstention"] | {"low": 0.2, "high": 0.8}
    io.write_json(results / "tiny/builtin/otrain2/seed1/metrics.json", record | {"abstention": rule})
    (one,) = open_cubes(results)
    otrain2 = next(training for training in one.trainings if training.name == "otrain2/seed1")
    calibrated = Calibration.from_record(record["calibration"]).apply(table["score"].to_numpy())
    open_ = table["index"][(calibrated > 0.2) & (calibrated < 0.8)]
    assert sorted(np.flatnonzero(otrain2.undecided)) == sorted(open_) and len(open_) > 5
    assert set(one.sets) == {"train", "validation", "test"}
    chosen = worth_a_look(one, most=20)
    assert {reason for reasons in chosen.values() for reason in reasons} >= {
        "uncertain",
        "disagreeing",
        "against the label",
    }


def test_studies_are_not_asked(results):
    assert len(open_cubes(results, experiments=["paper"])[0].trainings) == 1
    io.write_table(results / "summary.csv", pd.DataFrame({"experiment": ["otrain2"]}))
    assert [one.name for one in open_cubes(results)[0].trainings] == ["otrain2/seed1"]


def test_suspects_and_what_was_made_for_an_earlier_cube(results, caplog):
    cube = read_arrays(results / "tiny/builtin/cube.npz")
    table = pd.DataFrame({"index": [7, 9, 11], "candid": cube["candids"][[7, 9, 11]], "p_wrong": [0.9, 0.8, 0.1]})
    path = results / "tiny/builtin/otrain2/label_noise/suspects.csv"
    io.write_table(path, table.assign(suspected=table["p_wrong"] > 0.5))
    assert open_cubes(results)[0].suspects == {7: 0.9, 9: 0.8}
    io.write_table(path, table.assign(suspected=True, candid="another"))
    with caplog.at_level("WARNING", "otrain"):
        assert open_cubes(results)[0].suspects == {}
    assert "suspects.csv: made for an earlier cube" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be used"),
        (b"index,candid,score\n0,a,0.5\n", "no columns label, set"),
        (b"index,candid,label,score,set\nx,a,1,0.5,test\n", "cannot be used"),
        (b"index,candid,label,score,set\n-1,a,1,0.5,test\n", "made for an earlier cube"),
        (b"\xff\xfe\x00binary\x00", "cannot be used"),
    ],
)
def test_scores_that_cannot_be_read_are_left_aside(results, caplog, content, reason):
    (results / "tiny/builtin/paper/seed1/scores.csv").write_bytes(content)
    with caplog.at_level("WARNING", "otrain"):
        (one,) = open_cubes(results)
    assert [training.name for training in one.trainings] == ["otrain2/seed1"]
    assert "paper/seed1/scores.csv" in caplog.text and reason in caplog.text and "left aside" in caplog.text


def test_nothing_to_open(tmp_path):
    with pytest.raises(OtrainError, match="no cube"):
        open_cubes(tmp_path)
    with pytest.raises(OtrainError, match="no such file"):
        open_cubes(tmp_path, ["T/p"])


def test_new_candidates_as_a_cube_and_as_files(tmp_path):
    from otrain_core.cubes.cutout_files import write_cutouts

    cube = make_cube(12, size=9)
    cube["times"] = np.full(12, "2026-01-01T01:00:00")
    write_arrays(tmp_path / "night.npz", cube)
    write_cutouts(cube, tmp_path / "night")
    about = {"telescope": "tiny", "experiment": "otrain2", "abstention": None}
    write_tiny(tmp_path / "model.onnx", about=about)
    (of_cube,) = open_new([str(tmp_path / "night.npz")], str(tmp_path / "model.onnx"))
    files = [str(tmp_path / "night/True"), str(tmp_path / "night/False")]
    (of_files,) = open_new(files, str(tmp_path / "model.onnx"), telescope="mine")
    assert (of_cube.telescope, of_files.telescope) == ("tiny", "mine")
    for one in (of_cube, of_files):
        chosen = worth_a_look(one)
        assert sum("recent night" in reasons for reasons in chosen.values()) == 12
        assert describe(one, 0)["label"] == "none" and describe(one, 0)["before"] == "left out"
    by_name = dict(zip(of_cube.cube["candids"], of_cube.trainings[0].score, strict=True))
    for name, score in zip(of_files.cube["candids"], of_files.trainings[0].score, strict=True):
        assert score == pytest.approx(by_name[name], abs=1e-6)
    with pytest.raises(OtrainError, match="new candidates are needed too"):
        open_new([], str(tmp_path / "model.onnx"))


def test_cubes_of_a_night_are_one_source(tmp_path):
    (tmp_path / "cutouts").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        cube = make_cube(12, size=9, seed=seed)
        cube["candids"] = np.array([f"{name}{k}" for k in range(len(cube["candids"]))])
        write_arrays(tmp_path / "cutouts" / f"{name}.npz", cube)
    write_tiny(tmp_path / "model.onnx", about={"telescope": "tiny", "experiment": "otrain2", "abstention": None})
    (one,) = open_new([str(tmp_path / "cutouts")], str(tmp_path / "model.onnx"))
    assert len(one) == 24 and one.new and len(one.trainings[0].score) == 24
    assert [str(one.cube["candids"][k]) for k in (0, -1)] == ["a0", "b11"]
