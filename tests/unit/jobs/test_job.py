"""Logging and the handling of failures in jobs."""

import json
import types

import pytest

from otrain_core import io
from otrain_core.errors import ClusterError, CubeError, ImageError, MissingProgramError, UpstreamFailed
from otrain_core.images.hdus import read_fits
from otrain_core.jobs import job


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The few attributes of Snakemake's object that a job uses, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(job.KEEP_GOING, raising=False)
    wildcards = {"telescope": "t", "pipeline": "p", "image": "i"}
    return types.SimpleNamespace(
        rule="psf", log=["logs/psf.log"], wildcards=wildcards, output=["out/psf.fits", "out/psf.json"]
    )


FAILURE = "results/failures/t/p/i/psf.json"


def test_a_bad_image_stops_its_job_with_one_sentence(fake, tmp_path, capfd):
    with pytest.raises(SystemExit) as stop, job.job_logging(fake):
        raise ImageError("i", "GAIN", "no gain")
    assert stop.value.code == 1
    assert "ERROR image i: GAIN: no gain" in (tmp_path / "logs/psf.log").read_text()
    error = capfd.readouterr().err
    assert "image i: GAIN: no gain" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / FAILURE).read_text())["message"] == "no gain"
    assert not (tmp_path / "out").exists()


def test_under_keep_going_it_is_left_out_and_later_steps_know(fake, tmp_path, monkeypatch):
    monkeypatch.setenv(job.KEEP_GOING, "1")
    with job.job_logging(fake):
        raise ImageError("i", "GAIN", "no gain")
    with pytest.raises(UpstreamFailed, match="image i: GAIN: no gain"):
        io.read_json("out/psf.json")
    fake.rule, fake.output = "inject", ["out/injected.fits"]
    with job.job_logging(fake):
        io.read_json("out/psf.json")
    with pytest.raises(UpstreamFailed, match="GAIN"):
        read_fits("out/injected.fits", image="i")
    assert [path.name for path in (tmp_path / "results/failures/t/p/i").iterdir()] == ["psf.json"]


def test_a_success_takes_the_old_failure_away(fake, tmp_path):
    with pytest.raises(SystemExit), job.job_logging(fake):
        raise ImageError("i", "GAIN", "no gain")
    with job.job_logging(fake):
        pass
    assert not (tmp_path / FAILURE).exists()


def test_other_problems_of_the_user_are_one_sentence(fake, capfd):
    with pytest.raises(SystemExit), job.job_logging(fake):
        raise CubeError("cube t/p: one class only")
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_leaves_its_traceback_in_the_log(fake, tmp_path):
    with pytest.raises(ZeroDivisionError), job.job_logging(fake):
        1 / 0  # noqa: B018
    assert "ZeroDivisionError" in (tmp_path / "logs/psf.log").read_text()


def test_a_full_disk_is_one_sentence(fake, capfd):
    with pytest.raises(SystemExit), job.job_logging(fake):
        raise OSError(28, "No space left on device", "out/psf.fits")
    error = capfd.readouterr().err
    assert "No space left on device" in error
    assert "out/psf.fits" in error


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero\nmore"), OSError("Header missing END card."), KeyError("a")]
)
def test_under_keep_going_an_unexpected_error_leaves_the_image_out(fake, tmp_path, monkeypatch, error):
    monkeypatch.setenv(job.KEEP_GOING, "1")
    with job.job_logging(fake):
        raise error
    with pytest.raises(UpstreamFailed, match=rf"image i: {type(error).__name__}: .*the traceback is in logs/psf.log"):
        io.read_json("out/psf.json")
    record = json.loads((tmp_path / FAILURE).read_text())
    assert (record["image"], record["key"], record["step"]) == ("i", type(error).__name__, "psf")
    assert "\n" not in record["message"]
    for text in (record["traceback"], (tmp_path / "logs/psf.log").read_text()):
        assert "Traceback (most recent call last)" in text and "raise error" in text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "out/psf.fits"), MemoryError()])
def test_a_machine_that_is_full_leaves_no_image_out(fake, tmp_path, monkeypatch, error):
    """The job ends, so that it is tried again, with more memory too."""
    monkeypatch.setenv(job.KEEP_GOING, "1")
    with pytest.raises((SystemExit, MemoryError)), job.job_logging(fake):
        raise error
    assert not (tmp_path / "out").exists() and not (tmp_path / FAILURE).exists()


def test_a_step_of_all_images_is_not_left_out(fake, tmp_path, monkeypatch):
    monkeypatch.setenv(job.KEEP_GOING, "1")
    fake.wildcards = {"telescope": "t", "pipeline": "p"}
    with pytest.raises(ZeroDivisionError), job.job_logging(fake):
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_while_marks_are_written_is_one_sentence(fake, monkeypatch, capfd):
    monkeypatch.setenv(job.KEEP_GOING, "1")

    def full(path, record):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(io, "write_json", full)
    with pytest.raises(SystemExit), job.job_logging(fake):
        raise ImageError("i", "GAIN", "no gain")
    error = capfd.readouterr().err
    assert "rule psf: [Errno 28] No space left on device: 'out/psf.fits'" in error and "Traceback" not in error


def test_a_job_that_refuses_its_input_leaves_a_note_until_it_succeeds(fake, tmp_path, monkeypatch):
    monkeypatch.setenv(job.RUN_MARK, "this-run")
    note = tmp_path / ".snakemake/otrain_refused/psf-t-p-i.json"
    with pytest.raises(SystemExit), job.job_logging(fake):
        raise ImageError("i", "GAIN", "no gain")
    assert json.loads(note.read_text()) == {"run": "this-run", "rule": "psf", "message": "image i: GAIN: no gain"}
    with job.job_logging(fake):
        pass
    assert not note.exists()
    for error in (
        OSError(28, "No space left on device"),
        ClusterError("sbatch: no answer"),
        MissingProgramError("sex"),
    ):
        with pytest.raises(SystemExit), job.job_logging(fake):
            raise error
        assert not note.exists()  # may go well the next time
