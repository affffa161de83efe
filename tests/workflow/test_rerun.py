"""What is done again when the files of a user change, and what is done first."""

import os
import re

import numpy as np
import yaml
from astropy.io import fits

from tests.workflow.test_dry_run import planned_jobs, snakemake

TARGET = "results/t1/sky/a/catalogue.csv"  # the cheapest job that reads a science image


def test_a_frame_replaced_by_one_with_an_older_date_is_used(root, tmp_path):
    frame = tmp_path / "a.fits"
    fits.writeto(frame, np.zeros((64, 64), np.float32))
    (tmp_path / "images.csv").write_text("telescope,image,path,reference\nt1,a,a.fits,r.fits\n")
    values = {"telescopes": {"t1": {}}, "images": "images.csv", "run": {"cubes": ["t1/builtin"]}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
    command = ["--cores", "1", "--directory", str(tmp_path), "--configfile", str(tmp_path / "my.yaml")]
    snakemake(root, *command, "--keep-going", "--", TARGET)
    assert "Nothing to be done" in snakemake(root, *command, "-n", "--", TARGET).stdout
    before = frame.stat()
    fits.writeto(frame, np.ones((64, 64), np.float32), overwrite=True)
    os.utime(frame, ns=(before.st_atime_ns, before.st_mtime_ns - 86400 * 10**9))
    assert planned_jobs(snakemake(root, *command, "-n", "--", TARGET).stdout)["catalogue"] == 1


def test_what_images_wait_for_comes_first(root, tmp_path):
    """Otherwise every prepared frame waits on the disk for the stack of its reference."""
    rows = ["t1,a,a.fits,science,f", "t1,r,r.fits,reference,f"]
    (tmp_path / "images.csv").write_text("\n".join(["telescope,image,path,role,field", *rows]) + "\n")
    values = {
        "telescopes": {"t1": {"catalogue": "stars.csv"}},
        "images": "images.csv",
        "pipelines": {"builtin": {"detect": {"search": ["difference", "catalogue"]}}},
        "run": {"cubes": ["t1/builtin"]},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
    command = [
        "--directory",
        str(tmp_path),
        "--configfile",
        str(tmp_path / "my.yaml"),
        "-n",
        "--",
        "results/report.html",
    ]
    priority = {}
    for rule, block in re.findall(
        r"^ *(?:local)?rule (\w+):$(.*?)(?=^ *(?:local)?rule |\Z)", snakemake(root, *command).stdout, flags=re.M | re.S
    ):
        found = re.search(r"^ *priority: (\d+)$", block, flags=re.M)
        priority[rule] = int(found[1]) if found else 0
    assert {"reference", "catalogue", "psf", "prepare", "cutouts", "cube"} <= set(priority)
    least = min(priority[name] for name in ("reference", "catalogue"))
    assert least > max(value for name, value in priority.items() if name not in ("reference", "catalogue"))
