"""The scripts of examples/ in use: with the functions of STDPipe, and on the output folders of gmadet."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from otrain_core.cli.main import main
from tests.unit.synthetic_pair import make_sky, observe
from tests.unit.tiny_onnx import write_tiny

FWHM, SIZE = 2.5, 21


@pytest.fixture
def night(tmp_path):
    """A science image, its difference from a reference of the same seeing, and the new sources."""
    sky = make_sky(n=80, logflux=(3.5, 4.6))
    rng = np.random.default_rng(4)
    x, y = rng.uniform(30, 330, 40), rng.uniform(30, 290, 40)
    free = np.hypot(x[:, None] - sky.x, y[:, None] - sky.y).min(axis=1) > 12
    free &= (np.hypot(x[:, None] - x, y[:, None] - y) + 99 * np.eye(40)).min(axis=1) > 20
    new = np.column_stack([x[free], y[free], np.full(free.sum(), 4000.0)])
    science, reference = observe(sky, seed=1, fwhm=FWHM, extra=new), observe(sky, seed=2, fwhm=FWHM)
    fits.PrimaryHDU(science.data, science.header).writeto(tmp_path / "science.fits")
    fits.PrimaryHDU(science.data - reference.data, science.header).writeto(tmp_path / "difference.fits")
    write_tiny(tmp_path / "model.onnx", size=SIZE, channels=("difference", "psf"))
    return tmp_path, new, science.wcs


def _run(root, name, *arguments, cwd):
    command = [sys.executable, "-W", "ignore", str(root / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _matched(x, y, new):
    return np.hypot(new[:, None, 0] - np.asarray(x, float), new[:, None, 1] - np.asarray(y, float)).min(axis=1) < 1


def test_the_stdpipe_script(root, night, capsys):
    folder, new, wcs = night
    _run(root, "stdpipe_script.py", "science.fits", "difference.fits", "model.onnx", cwd=folder)
    table = Table.read(folder / "candidates.csv", format="ascii.csv")
    called = table[table["real"] == "True"]
    assert len(new) >= 8 and _matched(called["x"], called["y"], new).mean() > 0.9
    assert not any("no PSF" in str(reason) for reason in table["reason"])
    ra, dec = wcs.all_pix2world(called["x"], called["y"], 0)
    assert np.allclose(called["ra"], ra, atol=1e-5) and np.allclose(called["dec"], dec, atol=1e-5)
    # The cutouts written by STDPipe are read back and have the same scores.
    files = sorted(folder.glob("candidate_*.fits"))
    assert len(files) == len(called)
    assert main(["classify", *map(str, files), "-m", str(folder / "model.onnx"), "-o", str(folder / "again.csv")]) == 0
    with open(folder / "again.csv") as file:
        again = {row["file"].rsplit("_", 1)[1]: float(row["probability"]) for row in csv.DictReader(file)}
    for k in np.flatnonzero(table["real"] == "True"):
        assert again[f"{k}.fits"] == pytest.approx(float(table["probability"][k]), abs=1e-5)


def test_the_loop_over_gmadets_results(root, night, capsys):
    """gmadet-run writes for each image substraction/ with the difference, a table and folders of cutouts."""
    folder, new, wcs = night
    image = folder / "results" / "night1" / "science" / "substraction"
    (image / "CNN_cutouts").mkdir(parents=True)
    (folder / "difference.fits").rename(image / "science_sub.fits")
    data, header = fits.getdata(image / "science_sub.fits", header=True)
    x, y = np.append(new[:, 0], [5.0, 100.0]), np.append(new[:, 1], [150.0, 3.0])
    ra, dec = wcs.all_pix2world(x, y, 0)
    table = Table({"_RAJ2000": ra, "_DEJ2000": dec, "Xpos": x + 1, "Ypos": y + 1, "FWHMPSF": np.full(len(x), FWHM)})
    table["filenames"], table["cand_ID"] = "/elsewhere/substraction/science_sub.fits", np.arange(len(x)) + 1
    table.write(image / "science_candidates.dat", format="ascii.commented_header")
    for k, (xk, yk) in enumerate(zip(x.astype(int), y.astype(int), strict=True)):
        cut = data[max(0, yk - 16) : yk + 16, max(0, xk - 16) : xk + 16]
        cards = {"CANDID": k, "RA": ra[k], "DEC": dec[k], "FILE": "science_sub.fits", "FWHMPSF": FWHM, "MAG": -99.0}
        cards["edge"] = str(cut.shape != (32, 32))
        fits.PrimaryHDU(cut, fits.Header(cards)).writeto(image / "CNN_cutouts" / f"candidate_{k}.fits")

    told = _run(root, "gmadet_loop.py", "results", "model.onnx", cwd=folder)
    assert f"{len(x)} candidates, " in told
    scored = Table.read(image / "science_scored.dat", format="ascii.commented_header")
    assert (np.diff(scored["P_True"]) <= 0).all() and len(scored) == len(x)
    called = scored[scored["real"] == "True"]
    assert _matched(called["Xpos"] - 1, called["Ypos"] - 1, new).mean() > 0.9

    table = folder / "cutouts.csv"
    assert main(["classify", str(image / "CNN_cutouts"), "-m", str(folder / "model.onnx"), "-o", str(table)]) == 0
    assert "2 cutouts are left out, as they are cut off by the edge" in capsys.readouterr().err
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(new) and {row["seeing"] for row in rows} == {str(FWHM)}
