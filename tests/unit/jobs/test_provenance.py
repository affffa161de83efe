"""Provenance of a result: commit, versions, time and number of CPUs."""

import datetime
import os
import subprocess

import numpy as np
import pytest

from otrain_core import __version__
from otrain_core.jobs import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one commit that contains the module."""
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    for key, value in (who | {"GIT_CONFIG_GLOBAL": "/dev/null"}).items():
        monkeypatch.setenv(key, value)
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "provenance.py").write_text("")
    for command in (["init", "-q"], ["add", "a.txt", "provenance.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env=dict(os.environ))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    return tmp_path


def test_the_record_names_versions_and_time():
    record = provenance.provenance()
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["otrain"] == __version__
    assert "tensorflow" in record["versions"]  # also where it is installed as tensorflow-cpu
    assert record["cpus"] == os.cpu_count()
    stamp = datetime.datetime.strptime(record["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    assert abs((datetime.datetime.now(datetime.UTC) - stamp).total_seconds()) < 60


def test_the_commit_has_a_plus_where_files_were_changed(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert provenance.commit() == head[:12]
    (checkout / "new.txt").write_text("not under version control\n")
    assert provenance.commit() == head[:12]
    (checkout / "a.txt").write_text("b\n")
    assert provenance.commit() == head[:12] + "+"


def test_the_commit_of_another_repository_around_an_installed_package_is_not_taken(checkout, monkeypatch):
    (checkout / "venv").mkdir()
    (checkout / "venv/provenance.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(checkout / "venv/provenance.py"))
    assert provenance.commit() == ""


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == ""
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert provenance.commit() == ""
