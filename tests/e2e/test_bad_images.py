"""Bad images in a run: each is reported with its name and the key, and the other images are not affected."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core.plan.telescopes import Detector, SimulatedSky, Telescope
from otrain_core.sky.simulate import simulate_pair
from tests.workflow.test_dry_run import snakemake

N_GOOD = 4
BAD = {
    "missing": ("path", "no such file"),
    "truncated": ("path", "truncated"),
    "notfits": ("path", "not a readable FITS"),
    "allnan": ("data", "all pixels are NaN"),
    "saturated": ("SATURATE", "saturated"),
    "nowcs": ("WCS", "wcs"),
    "farref": ("reference", "covers 0 % of the field"),
    "small": ("cutouts.size", "cutout"),
    "badunit": ("BUNIT", "no exposure time"),
    "noref": ("reference", "no such file"),
}

CONFIG = """
run: {cubes: [camera/builtin], experiments: [otrain2], seeds: [1]}
pipelines:
  builtin:
    inject: {n_sources: 60}
    subtract: {align: wcs}
cube: {min_per_class: 5, max_failed_fraction: 0.9}
experiments: {otrain2: {epochs: 1}}
evaluate: {bootstrap: 100}
"""


def _write(path, data, header):
    fits.PrimaryHDU(data, header=header).writeto(path)


@pytest.fixture(scope="module")
def camera(root, tmp_path_factory):
    """A telescope with good and bad FITS files, its image sheet and its configuration."""
    folder = tmp_path_factory.mktemp("camera")
    detector = Detector(pixel_scale=1.2, gain=1.5, read_noise=8, saturation=60000)
    sky = SimulatedSky(n_images=N_GOOD, width=320, height=320, star_density=900, cosmics=60, hot_pixels=90)
    row = Telescope(name="camera", source="simulated", detector=detector, sky=sky)
    sheet = []
    for index in range(N_GOOD):
        pair = simulate_pair(row, index=index, seed=5)
        _write(folder / f"good{index}.fits", pair.science, pair.science_header)
        _write(folder / f"good{index}.ref.fits", pair.reference, pair.reference_header)
        sheet.append(f"good{index}")
    data, header = pair.science, pair.science_header
    last = f"good{N_GOOD - 1}"
    (folder / "truncated.fits").write_bytes((folder / f"{last}.fits").read_bytes()[:150_000])
    (folder / "notfits.fits").write_text("this is no image\n")
    _write(folder / "allnan.fits", np.full_like(data, np.nan), header)
    _write(folder / "saturated.fits", np.full_like(data, 65000) + np.arange(320, dtype=data.dtype), header)
    without = header.copy()
    for key in [key for key in header if key.startswith(("CTYPE", "CRVAL", "CRPIX", "CD", "PC", "CDELT"))]:
        without.remove(key)
    _write(folder / "nowcs.fits", data, without)
    _write(folder / "farref.fits", data, header)
    _write(folder / "noref.fits", data, header)
    far = pair.reference_header.copy()
    far["CRVAL1"] = (far["CRVAL1"] + 40) % 360
    _write(folder / "farref.ref.fits", pair.reference, far)
    _write(folder / "small.fits", data[:20, :20], header)
    wrong = header.copy()
    wrong["BUNIT"] = "adu/s"
    wrong.remove("EXPTIME")
    _write(folder / "badunit.fits", data, wrong)
    lines = ["telescope,image,path,reference"]
    for name in sheet + sorted(BAD):
        reference = {"farref": "farref.ref.fits", "noref": "noref.ref.fits"}.get(name, f"{last}.ref.fits")
        lines.append(f"camera,{name},{name}.fits,{f'{name}.ref.fits' if name in sheet else reference}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def options(root, camera, workdir):
    return [
        "--cores",
        "2",
        "--directory",
        str(workdir),
        "--configfile",
        str(camera / "config.yaml"),
        "--config",
        f"telescope_folder={root / 'tests/e2e/telescopes'}",
        f"images={camera / 'images.csv'}",
        f"data_root={camera}",
    ]


def test_missing_file_stops_before_any_work(root, camera, tmp_path):
    result = snakemake(root, *options(root, camera, tmp_path), check=False)
    assert result.returncode != 0
    assert "image missing: path: " in result.stdout + result.stderr
    assert not (tmp_path / "results" / "camera").exists()


@pytest.fixture(scope="module")
def kept_going(root, camera, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("kept_going")
    return workdir, snakemake(root, "--keep-going", *options(root, camera, workdir), timeout=900)


@pytest.mark.parametrize("name", sorted(BAD))
def test_each_failure_names_image_and_key(kept_going, name):
    workdir, _ = kept_going
    key, message = BAD[name]
    records = sorted((workdir / "results/failures/camera/builtin" / name).glob("*.json"))
    assert len(records) == 1, f"{name}: one failure, told once"
    record = json.loads(records[0].read_text())
    assert record["image"] == name
    assert key.lower() in record["key"].lower()
    assert message.lower() in record["message"].lower()
    assert "\n" not in record["message"]


def test_the_rest_of_the_run_ends(kept_going):
    workdir, result = kept_going
    quality = pd.read_csv(workdir / "results/quality.csv").set_index("image")
    assert set(quality.index[quality.status == "ok"]) == {f"good{i}" for i in range(N_GOOD)}
    assert set(quality.index[quality.status == "failed"]) == set(BAD)
    assert quality.reason.dropna().str.len().min() > 10
    page = (workdir / "results/report.html").read_text()
    for name in BAD:
        assert name in page
    record = json.loads((workdir / "results/camera/builtin/cube.json").read_text())
    assert {failure["image"] for failure in record["failed"]} == set(BAD)
    assert "image allnan: data: all pixels are NaN" in result.stdout + result.stderr


def test_without_keep_going_a_bad_image_stops_the_run(root, camera, tmp_path):
    """One sentence on the terminal and in the log of the job; no output is left behind."""
    target = "results/camera/builtin/images/allnan/psf.json"
    arguments = options(root, camera, tmp_path)
    sheet = [
        line
        for line in (camera / "images.csv").read_text().splitlines()
        if "missing" not in line and "noref" not in line
    ]
    (tmp_path / "images.csv").write_text("\n".join(sheet) + "\n")
    arguments[arguments.index(f"images={camera / 'images.csv'}")] = f"images={tmp_path / 'images.csv'}"
    result = snakemake(root, *arguments, "--", target, check=False)
    assert result.returncode != 0
    assert "image allnan: data: all pixels are NaN" in result.stdout + result.stderr
    assert (
        "image allnan: data: all pixels are NaN"
        in (tmp_path / "results/logs/camera/builtin/allnan/psf.log").read_text()
    )
    assert not (tmp_path / target).exists()
