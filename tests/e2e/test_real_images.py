"""Real frames of three telescopes, from the image sheet to labelled cutouts (the data are outside the clone)."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import read_arrays
from otrain_core.cli.main import main
from tests.workflow.test_dry_run import snakemake

CONFIG = """
telescopes:
  toros: {detector: {pixel_scale: 0.745, gain: 1.0, read_noise: 10, saturation: 65000, filter: Clear}}
  decam: {detector: {pixel_scale: 0.262, gain: 4.0, read_noise: 7, saturation: 60000, filter: i}}
pipelines:
  builtin:
    psf: {min_stars: 4, min_snr: 15}
    inject: {n_sources: 80}
    subtract: {max_noise_spread: 3, max_flux_scatter: 1}
cube: {min_per_class: 5}
run: {cubes: [cecilia/builtin, toros/builtin, decam/builtin]}
"""


@pytest.fixture(scope="module")
def real_run(root, shared_data, tmp_path_factory):
    """A run of four hatp32 frames with a reference stacked from five others, one pair of eso085, and one of decam_mini."""
    workdir = tmp_path_factory.mktemp("real")
    with (root / "config/hatp32_images.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    science = [row for row in rows if row["role"] == "science"][3:80:20]
    reference = [row for row in rows if row["role"] == "reference"][::4]
    lines = ["telescope,image,path,role,field,wcs,reference"]
    for row in science + reference:
        row = {**row, "path": f"hatp32/{row['path']}", "wcs": f"hatp32/{row['wcs']}"}
        lines.append(",".join(row[key] for key in ("telescope", "image", "path", "role", "field", "wcs")) + ",")
    lines.append("toros,eso085,eso085/aligned_eso085-030-004.fit,science,,,eso085/aligned_eso085-030-005.fit")
    lines.append("decam,obs04,decam_mini/Stack-DEC-OBS04.fits,science,,,decam_mini/Stack-DEC-OBS18.fits")
    (workdir / "images.csv").write_text("\n".join(lines) + "\n")
    (workdir / "config.yaml").write_text(CONFIG)
    images = [f"cecilia/builtin/images/{row['image']}" for row in science]
    images += ["toros/builtin/images/eso085", "decam/builtin/images/obs04"]
    snakemake(
        root,
        *("--cores", "2", "--directory", str(workdir), "--configfile", str(workdir / "config.yaml")),
        *("--config", "images=images.csv", f"data_root={shared_data}", "--"),
        *(f"results/{image}/cutouts.npz" for image in images),
        "results/cecilia/builtin/cube.npz",
        timeout=1200,
    )
    return workdir, images


def test_every_frame_gives_labelled_cutouts(real_run):
    workdir, images = real_run
    for image in images:
        stack = read_arrays(workdir / "results" / image / "cutouts.npz")
        record = json.loads((workdir / "results" / image / "crossmatch.json").read_text())
        assert stack["stack"].shape[1:] == (32, 32, 5), image
        assert record["n_true"] >= 10, image
        missing = np.isnan(stack["stack"][..., 0])
        masked = stack["stack"][..., 3] > 0
        assert (missing <= masked).all(), f"{image}: a pixel is missing and not masked"


def test_hatp32_subtraction_is_sound(real_run):
    workdir, images = real_run
    reference = json.loads((workdir / "results/cecilia/sky/hatp32.reference.json").read_text())
    assert reference["n_frames"] + len(reference["left_out"]) == 5
    assert reference["n_frames"] >= 4
    for image in images[:4]:
        record = json.loads((workdir / "results" / image / "subtract.json").read_text())
        assert 0.6 < record["noise_spread"] < 1.4, image
        truth = pd.read_csv(workdir / "results" / image / "injected.csv")
        psf = json.loads((workdir / "results" / image / "psf.json").read_text())
        labelled = pd.read_csv(workdir / "results" / image / "labelled.csv")
        bright = truth[truth.mag < psf["limit_mag"] - 1.5]
        found = bright.id.isin(labelled.injection[labelled.label == 1])
        assert found.mean() > 0.6, image


def _rows(path):
    return pd.read_csv(path, dtype={"image": str}, keep_default_na=False)


def test_a_classifier_of_these_frames_in_use(real_run, shared_data, capsys):
    """As in the documentation: train on frames of one telescope, use the model on its other frames and on differences of another telescope."""
    workdir, images = real_run
    mine, table = workdir / "mine", workdir / "scores.csv"
    cube = workdir / "results/cecilia/builtin/cube.npz"
    assert main(["train", str(cube), "-o", str(mine), "--epochs", "8", "--threads", "1"]) == 0
    sets = _rows(mine / "split.csv").drop_duplicates("image").set_index("image")["set"]
    unseen = [image for image in images[:4] if sets.get(image.split("/")[-1]) != "train"]
    assert unseen
    cutouts = [str(workdir / "results" / image / "cutouts.npz") for image in unseen]
    assert main(["classify", *cutouts, "-m", str(mine), "-o", str(table)]) == 0
    found = _rows(table)
    real = [found.real[found.label == label].mean() for label in (0, 1)]
    assert (found.label == -1).any() and real[1] > real[0] + 0.5, real

    lco = shared_data / "lco_difference"
    options = ["-m", str(mine), "--detect", "--psf", "5.4", "--bin", "2"]
    assert main(["classify", str(lco / "diff_pydia_1.fits.fz"), *options, "-o", str(table)]) == 0
    found = _rows(table)
    assert 100 < len(found) < 250 and found.seeing.unique().tolist() == [2.7]
    assert found.x.max() > 2000 and found.ra.between(17.2, 17.6).all()  # in pixels of the image, not binned
    assert (found.reason.str.contains("noise")).mean() > 0.9
    assert found.real.mean() < 0.5  # nearly all are residuals of stars, cosmic rays and hot pixels
    capsys.readouterr()
    assert main(["monitor", str(table), "-m", str(mine), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert "It is not known whether the night has changed: only 2 images" in told["advice"]
    assert "Most candidates are outside the range" in told["advice"]


def test_nothing_is_written_beside_the_data(real_run, shared_data):
    assert not list(shared_data.rglob("*.tmp"))
    assert not (shared_data / "results").exists()
