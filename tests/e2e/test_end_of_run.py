"""The end of a run that a bad image stops: its messages, also if no file can be written."""

import subprocess
import sys

import pytest

from tests.workflow.test_dry_run import snakemake

CONFIG = """
run: {cubes: [camera/builtin], experiments: [otrain2], seeds: [1]}
telescopes:
  camera: {source: images, detector: {pixel_scale: 1.2, gain: 1.5, read_noise: 8, saturation: 60000}}
"""


@pytest.fixture(scope="module")
def ended(root, tmp_path_factory):
    """A run with one invalid image, in a folder in which no report can be written."""
    folder = tmp_path_factory.mktemp("ended")
    for name in ("science", "reference"):
        (folder / f"{name}.fits").write_text(f"this is no image of the {name}\n")
    (folder / "images.csv").write_text("telescope,image,path,reference\ncamera,bad,science.fits,reference.fits\n")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "results").mkdir()
    (folder / "results/unfinished").write_text("in the way, as a full disk would be")
    arguments = ["--cores", "1", "--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    arguments += ["--config", f"images={folder / 'images.csv'}", f"data_root={folder}"]
    target = "results/camera/builtin/images/bad/psf.json"
    return folder, snakemake(root, *arguments, "--", target, check=False)


def test_the_end_is_told_without_a_second_error(ended):
    _, run = ended
    assert run.returncode == 1
    assert "rule psf: image bad: path: " in run.stderr and "not a readable FITS" in run.stderr
    assert "no report of what there is could be written" in run.stderr
    assert "The same input would fail again. Correct it and start the run again: snakemake --snakefile " in run.stderr
    assert "Traceback" not in run.stderr


def test_it_is_not_repeated(root, ended):
    folder, _ = ended
    command = [sys.executable, "-m", "otrain_core.jobs.resume", "--directory", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("rule psf: image bad: path: ") and "--keep-going`" in done.stderr
    assert "going on" not in done.stdout
