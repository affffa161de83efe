"""Three pipelines on the same simulated images, with the real AstrOmatic programs."""

import json

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import read_arrays
from otrain_core.errors import MissingProgramError
from otrain_core.programs import find_program
from tests.workflow.test_dry_run import snakemake

PIPELINES = ("builtin", "gmadet", "stdpipe")
LEAST_FOUND = {"builtin": 0.9, "gmadet": 0.7, "stdpipe": 0.85}  # gmadet applies its threshold to single pixels
IMAGES = ("sim0001", "sim0002")
CONFIG = """
pipelines:
  builtin: {inject: {n_sources: 60, removed_stars: 6, transplanted_stars: 6}}
  gmadet: {inject: {n_sources: 60}, subtract: {fallback: alard-lupton}}
  stdpipe: {inject: {n_sources: 60}, subtract: {fallback: alard-lupton}}
cube: {min_per_class: 5}
run: {cubes: [pair/builtin, pair/gmadet, pair/stdpipe]}
"""


def missing_programs():
    missing = []
    for name in ("source-extractor", "psfex", "scamp", "swarp"):
        try:
            find_program(name)
        except MissingProgramError:
            missing.append(name)
    return ", ".join(missing)


pytestmark = pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {missing_programs()}")


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    """Labelled cutouts of two images under three pipelines."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "config.yaml").write_text(CONFIG)
    targets = [f"results/pair/{name}/images/{image}/cutouts.npz" for name in PIPELINES for image in IMAGES]
    snakemake(
        root,
        *("--cores", "2", "--directory", str(folder), "--configfile", str(folder / "config.yaml")),
        *("--config", f"telescope_folder={root / 'tests/e2e/telescopes'}", "--", *targets),
        timeout=1200,
    )
    return folder


def record(workdir, pipeline, image, name):
    return json.loads((workdir / f"results/pair/{pipeline}/images/{image}/{name}.json").read_text())


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_bright_injections_are_found_by_every_pipeline(workdir, pipeline):
    counts = [record(workdir, pipeline, image, "crossmatch") for image in IMAGES]
    found, bright = (sum(one[f"bright_{name}"] for one in counts) for name in ("recovered", "injected"))
    assert bright > 30
    assert found >= LEAST_FOUND[pipeline] * bright
    assert all(one["near_injection_false"] == 0 for one in counts)
    assert sum(one["n_false"] for one in counts) > 10


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_noise_map_holds(workdir, pipeline):
    for image in IMAGES:
        assert 0.85 < record(workdir, pipeline, image, "subtract")["noise_spread"] < 1.25


def test_a_fallback_is_told(workdir):
    try:
        find_program("hotpants")
        expected = ("hotpants", None)
    except MissingProgramError:
        expected = ("alard-lupton", "hotpants")
    for image in IMAGES:
        subtraction = record(workdir, "gmadet", image, "subtract")
        assert (subtraction["method"], subtraction.get("wanted_method")) == expected


def test_the_wcs_is_refined_where_the_pipeline_says_so(workdir):
    assert record(workdir, "builtin", "sim0001", "psf")["wcs"] is None
    for pipeline, method in (("gmadet", "scamp"), ("stdpipe", "astropy")):
        psf = record(workdir, pipeline, "sim0001", "psf")
        assert psf["astrometry"]["method"] == method
        assert "CTYPE1" in psf["wcs"]
    solution = record(workdir, "stdpipe", "sim0001", "psf")["photometry"]
    assert solution["n_stars"] > 10 and solution["zero_point_err"] < 0.05


def test_both_search_methods_give_candidates(workdir):
    methods = pd.concat(
        pd.read_csv(workdir / f"results/pair/gmadet/images/{image}/labelled.csv")["method"] for image in IMAGES
    )
    assert {"difference", "both"} <= set(methods) <= {"difference", "catalogue", "both"}


def test_known_variables_and_moving_objects_are_not_false(workdir):
    for image in IMAGES:
        known = pd.read_csv(workdir / f"results/pair/sky/{image}/known.csv")
        labelled = pd.read_csv(workdir / f"results/pair/builtin/images/{image}/labelled.csv")
        assert len(known)
        left_out = labelled[labelled["reason"].str.startswith("known object")]
        assert (left_out["label"] == -1).all()
        false = labelled[labelled["label"] == 0]
        for ra, dec in zip(known["ra"], known["dec"], strict=True):
            apart = np.hypot((false["ra"] - ra) * np.cos(np.deg2rad(dec)), false["dec"] - dec) * 3600
            assert apart.min() > 2.0


def test_stdpipe_cuts_out_63_pixels(workdir):
    assert read_arrays(workdir / "results/pair/stdpipe/images/sim0001/cutouts.npz")["stack"].shape[1:] == (63, 63, 5)
    assert read_arrays(workdir / "results/pair/gmadet/images/sim0001/cutouts.npz")["stack"].shape[1:] == (32, 32, 5)


def test_real_stars_are_named_and_found(workdir):
    kinds = {}
    for image in IMAGES:
        for kind, values in record(workdir, "builtin", image, "crossmatch")["kinds"].items():
            n, recovered = kinds.get(kind, (0, 0))
            kinds[kind] = n + values["n"], recovered + values["recovered"]
    for kind in ("removed", "transplanted"):
        n, recovered = kinds[kind]
        assert n >= 5, kind
        assert recovered >= 0.5 * n, kind
