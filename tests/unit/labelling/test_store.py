"""The database of answers: nothing is lost, the latest of each person counts, and the sheet is what the workflow reads."""

import io
import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from otrain_core.errors import OtrainError
from otrain_core.labelling.store import LabelStore, StoreError, check_person
from otrain_core.plan.sheets import read_labels
from tests.unit.answers import all_answers


def candidate(name="c1", **changed):
    named = {"id": name, "telescope": "T", "pipeline": "p", "image": "a", "candid": f"T-{name}", "before": "False"}
    return named | {"x": 10.123456789, "y": 5.0} | changed


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels.sqlite")


def say(store, label, who="anna", *, key, name="c1"):
    return store.add(candidate(name), label=label, who=who, key=f"key-{key:05d}")


def test_the_latest_answer_of_each_person_counts_and_all_are_kept(store):
    for key, (label, who) in enumerate([("True", "anna"), ("False", "bo"), ("False", "anna"), ("unsure", "cy")]):
        assert say(store, label, who, key=key)
    say(store, "withdrawn", "cy", key=9)
    assert [(row["who"], row["label"]) for row in store.answers()] == [("bo", "False"), ("anna", "False")]
    assert [row["label"] for row in all_answers(store.path)] == ["True", "False", "False", "unsure", "withdrawn"]
    assert say(store, "True", "cy", key=10) and len(store.answers()) == 3


def test_an_answer_sent_twice_is_one(store):
    assert say(store, "True", key=1) and not say(store, "True", key=1)
    assert len(all_answers(store.path)) == 1


def test_people_and_programs_at_once(store, tmp_path):
    def work(person):
        mine = LabelStore(tmp_path / "labels.sqlite")
        for k in range(15):
            mine.add(candidate(f"c{k}"), label="True", who=f"person {person}", key=f"key-{person}-{k:05d}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(all_answers(store.path)) == 60 and len(store.answers()) == 60


def test_many_open_a_new_file_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: LabelStore(tmp_path / "new.sqlite"), range(8)))) == 8


def test_the_sheet_is_read_by_the_workflow(store, tmp_path):
    say(store, "True", "Zoë O'Neil", key=1)
    store.add(candidate("c2", x=None, y=None, pipeline=""), label="unsure", who="bo", key="key-00002")
    text = io.StringIO()
    assert store.write_sheet(text) == 2
    (tmp_path / "labels.csv").write_text(text.getvalue())
    without, first = read_labels(tmp_path / "labels.csv")
    assert {"who": "Zoë O'Neil", "label": "True", "before": "False", "x": 10.123456789}.items() <= first.items()
    assert without["x"] is None and without["pipeline"] is None and without["candid"] == "T-c2"


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "=cmd()", "a\nb;", "<b>", "\u202eanna"])
def test_unusable_names(store, name):
    with pytest.raises(OtrainError, match="a name of 1 to 40"):
        say(store, "True", name, key=1)
    assert check_person("  Anna  Maria ") == "Anna Maria"


def test_unusable_answers(store):
    with pytest.raises(OtrainError, match="label: one of True, False, unsure"):
        say(store, "perhaps", key=1)
    with pytest.raises(OtrainError, match="key: 8 to 64"):
        store.add(candidate(), label="True", who="anna", key="'; DROP")


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(OtrainError, match="text: not a database of labels"):
        LabelStore(tmp_path / "text")
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("CREATE TABLE runs (a)")
    with pytest.raises(OtrainError, match=r"mlflow\.db: a database, but not one of labels"):
        LabelStore(tmp_path / "mlflow.db")
    LabelStore(tmp_path / "later")
    with sqlite3.connect(tmp_path / "later") as later:
        later.execute("PRAGMA user_version = 7")
    with pytest.raises(OtrainError, match="written by a later version"):
        LabelStore(tmp_path / "later")


def test_what_cannot_be_written_is_to_be_tried_again(store):
    store.path.unlink()
    with pytest.raises(StoreError, match="cannot be kept"):
        say(store, "True", key=1)


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_names_of_people_are_not_for_all_users_of_the_machine(tmp_path, mask):
    before = os.umask(mask)
    try:
        store = LabelStore(tmp_path / "labels.sqlite")
        say(store, "True", key=1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "labels.sqlite").stat().st_mode) == 0o600
    (tmp_path / "labels.sqlite").chmod(0o660)  # whoever shares it on purpose
    assert LabelStore(tmp_path / "labels.sqlite").answers()
    assert stat.S_IMODE((tmp_path / "labels.sqlite").stat().st_mode) == 0o660


def test_no_cell_of_the_sheet_is_a_formula(store, tmp_path):
    store.add(candidate("c1", candid="=HYPERLINK(1)", image="@a", x=-3.5), label="True", who="bo", key="key-00001")
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        store.write_sheet(file)
    (line,) = (tmp_path / "labels.csv").read_text().splitlines()[1:]
    assert line.startswith("T,p,'@a,'=HYPERLINK(1),-3.5,5.0,True,False,bo,")
    (row,) = read_labels(tmp_path / "labels.csv")
    assert (row["image"], row["candid"], row["x"]) == ("@a", "=HYPERLINK(1)", -3.5)


def damage(path, share):
    """Overwrite the file from a share of its length on."""
    content = path.read_bytes()
    kept = int(len(content) * share)
    path.write_bytes(content[:kept] + b"\xff" * (len(content) - kept))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_damaged_database_is_one_sentence(store, share):
    for key in range(200):
        say(store, "True", key=key, name=f"c{key}")
    damage(store.path, share)
    with pytest.raises(
        OtrainError, match=r"labels\.sqlite: (this database of labels is damaged|not a database of labels)"
    ):
        LabelStore(store.path)


def test_what_is_damaged_while_it_is_open_is_told(store):
    say(store, "True", key=1)
    damage(store.path, 0.0)
    with pytest.raises(StoreError, match=r"labels\.sqlite: the answers cannot be read \(file is not a database\)"):
        store.answers()
    with pytest.raises(StoreError, match="the answer cannot be kept"):
        say(store, "True", key=2)
