"""Fused jobs give the same images as the single rules, byte for byte."""

import json

import pytest

from otrain_core.io import digest
from tests.workflow.test_dry_run import snakemake

KEPT = ("psf.fits", "psf.json", "injected.csv", "labelled.csv", "crossmatch.json", "cutouts.npz")


@pytest.fixture(scope="module")
def both(root, tmp_path_factory):
    """Folders of a cube of two images, made by the single rules and by one job."""
    folders = []
    for run in ("{'max_images': 2}", "{'max_images': 2, 'fused': True, 'images_per_job': 2}"):
        workdir = tmp_path_factory.mktemp("run")
        settings = ["--config", f"telescope_folder={root / 'tests/e2e/telescopes'}", f"run={run}"]
        command = ["--cores", "2", "--directory", str(workdir), "--configfile", str(root / "tests/e2e/tiny.yaml")]
        snakemake(root, *command, *settings, "--", "results/tiny/builtin/cube.npz", timeout=900)
        folders.append(workdir / "results")
    return folders


def test_the_same_bytes(both):
    single, fused = both
    for image in ("sim0001", "sim0002"):
        for name in KEPT:
            path = f"tiny/builtin/images/{image}/{name}"
            assert digest(single / path) == digest(fused / path), path
        records = [json.loads((root / f"tiny/builtin/images/{image}/subtract.json").read_text()) for root in both]
        assert records[0] | {"cpu_seconds": 0} == records[1] | {"cpu_seconds": 0}
        assert digest(single / f"tiny/sky/{image}/truth.csv") == digest(fused / f"tiny/sky/{image}/truth.csv")
    for name in ("cube.npz", "real_stars.npz", "cube.json"):
        assert digest(single / "tiny/builtin" / name) == digest(fused / "tiny/builtin" / name), name


def test_ten_files_an_image_at_most(both):
    counts = [sum("sim0001" in path.parts and path.is_file() for path in root.rglob("*")) for root in both]
    assert counts[0] >= 25 and counts[1] <= 10
