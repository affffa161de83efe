"""Tests of the records of trainings: found, identified by a digest, and converted to tags."""

from pathlib import Path

import pandas as pd
import pytest

from otrain_core import io
from otrain_core.errors import OtrainError
from otrain_core.evaluation.gate import validation_mcc
from otrain_core.registry.records import (
    StudyTable,
    TrainingRecord,
    find_trainings,
    records_digest,
    run_name,
    run_tags,
)
from otrain_core.registry.store import place_of

KEYS = {"telescope": "TCA", "pipeline": "gmadet", "experiment": "otrain2", "seed": 1, "protocol": "by-image"}


def test_the_digest_follows_every_record(runs):
    folder = Path(runs[0])
    before = records_digest(folder)
    assert records_digest(folder) == before
    for name in ("train.json", "metrics.json", "history.csv", "curves.csv", "model.keras"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        assert records_digest(folder) != before, name
        (folder / name).write_bytes(kept)
    assert records_digest(folder) == before


def test_folders_of_trainings_are_found(runs, tmp_path):
    root = tmp_path / "results"
    study = root / "studies/size.csv"
    io.write_table(study, pd.DataFrame({"option": ["size"]}))
    pool = root / "pool/builtin/otrain2/seed1"
    pool.mkdir(parents=True)
    (pool / "train.json").write_text("{}")  # of a pool: never evaluated
    found, studies = find_trainings(root)
    assert found == sorted(runs) and len(found) == 4
    assert studies == [str(study)]
    with pytest.raises(OtrainError, match="no training in this folder"):
        find_trainings(tmp_path / "empty")


def test_names_and_tags():
    assert run_name(KEYS) == "TCA/gmadet/otrain2/1"
    assert run_name(KEYS | {"protocol": "random"}) == "TCA/gmadet/otrain2/1 (random)"
    tags = run_tags(KEYS, "here")
    assert tags["cube"] == "TCA/gmadet" and tags["seed"] == "1" and tags["place"] == "here"
    assert tags["training"] == "TCA/gmadet/otrain2/1/by-image"


def test_a_training_in_tags_parameters_and_words(runs, tmp_path):
    folder = Path(next(run for run in runs if "otrain2/seed1" in run and not run.endswith("random")))
    study = {"tiny/builtin/otrain2/1": ("size", "parent")}
    training = TrainingRecord(folder, study)
    headline = io.read_json(folder / "metrics.json")["headline"]
    assert training.started == 1767323045000 - 12500  # 2026-01-02T03:04:05Z, and 12.5 s before
    tags = training.tags()
    assert (tags["study"], tags["mlflow.parentRunId"], tags["commit"]) == ("size", "parent", "0123456789ab")
    assert tags["cube_digest"] == "ab" * 8 and tags["digest"] == records_digest(folder)
    assert TrainingRecord(folder, {}).tags()["study"] == "none"
    params = training.params()
    assert (params["inputs"], params["batch_size"], params["n_train"]) == ("difference", "128", "240")
    assert training.words().startswith(f"MCC {headline['mcc']:.3f} [")
    assert training.words().endswith(f"from {headline['n_images']} images it never saw.")
    used = training.version_tags()
    assert float(used["mcc"]) == pytest.approx(headline["mcc"], rel=1e-5)
    assert float(used["fp_share"]) == pytest.approx(headline["fp_share"], rel=1e-5)
    assert float(used["mcc_validation"]) == pytest.approx(validation_mcc(folder), rel=1e-5)
    assert float(used["threshold"]) == pytest.approx(headline["threshold"], rel=1e-5)
    assert used["place"] == place_of(tmp_path / "results")


def test_a_training_of_the_random_split_says_what_its_numbers_are(runs):
    folder = Path(next(run for run in runs if run.endswith("/random")))
    assert "images of a random split, tuned and scored on the same cutouts" in TrainingRecord(folder, {}).words()


def test_records_that_cannot_be_read_are_told(runs):
    folder = Path(runs[0])
    (folder / "metrics.json").write_text('{"headline": {')
    with pytest.raises(OtrainError, match=r"metrics\.json: the record is incomplete"):
        TrainingRecord(folder, {})
    (folder / "metrics.json").write_text("[]")
    with pytest.raises(OtrainError, match=r"metrics\.json: not a record"):
        TrainingRecord(folder, {})


def test_the_table_of_a_sweep_names_its_trainings(tmp_path):
    table = pd.DataFrame(
        {
            "sweep": "size",
            "option": "size",
            "value": ["15", "32"],
            "telescope": "t",
            "pipeline": "p",
            "experiment": "otrain2",
            "seed": 1,
        }
    )
    io.write_table(tmp_path / "size.csv", table)
    study = StudyTable(tmp_path / "size.csv", "here")
    assert (study.name, study.option, study.values, study.place) == ("size", "size", ["15", "32"], "here")
    assert study.members == ["t/p/otrain2-size-15/1", "t/p/otrain2-size-32/1"]
    io.write_table(tmp_path / "none.csv", table[:0])
    assert StudyTable(tmp_path / "none.csv", "here").members == []


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"tp": 0, "fp": 0, "fn": 30, "tn": 40}, "the training collapsed: it calls every cutout False"),
        ({"tp": 30, "fp": 40, "fn": 0, "tn": 0}, "the training collapsed: it calls every cutout True"),
        ({"tp": 30, "fp": 0, "fn": 0, "tn": 40}, ""),
        ({"tp": 0, "fp": 1, "fn": 30, "tn": 40}, ""),
        ({"tp": 0, "fp": 0, "fn": 0, "tn": 0}, ""),
        (None, ""),
    ],
)
def test_a_network_that_calls_everything_one_class_has_collapsed(runs, counts, words):
    folder = Path(runs[0])
    io.write_json(folder / "metrics.json", io.read_json(folder / "metrics.json") | {"confusion": counts})
    training = TrainingRecord(folder, {})
    assert training.collapsed == training.version_tags()["collapsed"] == words
    assert training.words().startswith(f"T{words[1:]}. MCC" if words else "MCC")
