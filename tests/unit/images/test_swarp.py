"""SWarp: flux and positions are conserved, the noise is predicted correctly, and errors of the WCS remain."""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ImageError, MissingProgramError
from otrain_core.images.align import align_reference, wcs_mapping
from otrain_core.images.common_stars import find_stars
from otrain_core.images.frames import MASK_MISSING, MASK_SATURATED
from otrain_core.images.prepare import Prepared, prepare_image
from otrain_core.images.resample import autocorrelation
from otrain_core.images.swarp import resample_by_swarp, run_swarp, swarp_command, swarp_impulse
from otrain_core.images.tpv import swarp_header
from otrain_core.plan.pipelines import PrepareOptions, SubtractOptions
from tests.unit.synthetic_pair import make_sky, observe
from tests.unit.synthetic_wcs import distorted, frame

needs_swarp = pytest.mark.skipif(
    not (shutil.which("SWarp") or shutil.which("swarp")), reason="the program swarp is not installed"
)


def test_the_command_leaves_nothing_to_files_of_the_user():
    command = swarp_command("/bin/swarp", resampling="lanczos3")
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert command[:2] == ["/bin/swarp", "input.fits"]
    assert options["-c"] == "empty.conf"
    assert options["-RESAMPLING_TYPE"] == "LANCZOS3"
    assert (options["-SUBTRACT_BACK"], options["-FSCALASTRO_TYPE"]) == ("N", "VARIABLE")
    assert not [value for key, value in options.items() if key.endswith("_KEYWORD") and value != "NONE"]


@needs_swarp
@pytest.mark.parametrize("resampling", ["bilinear", "lanczos3"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.6])
def test_flux_place_and_noise(resampling, scale):
    shape, grid = (300, 300), (int(300 / scale), int(300 / scale))
    wcs, target = frame(shape), frame(grid, scale=scale, angle=0.1, shift=(0.3, -1.8))
    y, x = np.mgrid[: shape[0], : shape[1]]
    star = (1000 * np.exp(-0.5 * ((x - 131.3) ** 2 + (y - 158.8) ** 2) / 2.5**2)).astype(np.float32)
    options = {"wcs": wcs, "target_wcs": target, "shape": grid, "resampling": resampling, "name": "a"}
    out, covered = run_swarp(star, **options)
    out[~covered] = 0
    assert out.sum() == pytest.approx(star.sum(), rel=2e-3)
    y, x = np.mgrid[: grid[0], : grid[1]]
    centre = (out * x).sum() / out.sum(), (out * y).sum() / out.sum()
    np.testing.assert_allclose(centre, target.world_to_pixel(wcs.pixel_to_world(131.3, 158.8)), atol=0.02)

    noise = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    mapping = wcs_mapping(target, wcs, grid)
    smoothing = autocorrelation(*mapping.grid(), swarp_impulse(resampling, scale))
    out, _ = run_swarp(noise, **options)
    inner = out[grid[0] // 6 : -grid[0] // 6, grid[1] // 6 : -grid[1] // 6] / (3 * scale)
    middle = smoothing.shape[0] // 2
    assert inner.var() == pytest.approx(smoothing[middle, middle], rel=0.03)
    assert (inner[:, 1:] * inner[:, :-1]).mean() == pytest.approx(smoothing[middle, middle + 1], abs=0.02)


@needs_swarp
@pytest.mark.parametrize("which", ["image", "grid"])
@pytest.mark.parametrize("kind", ["SIP", "TPV"])
def test_distortions_are_followed(which, kind):
    shape = (600, 700)
    bent, plain = distorted(shape), frame(shape, shift=(4.0, 2.0))
    if kind == "TPV":
        bent = WCS(swarp_header(bent, shape, name="a"))
    wcs, target = (bent, plain) if which == "image" else (plain, bent)
    y, x = np.mgrid[: shape[0], : shape[1]]
    star = (1000 * np.exp(-0.5 * ((x - 621.3) ** 2 + (y - 538.8) ** 2) / 2.0**2)).astype(np.float32)
    out, _ = run_swarp(star, wcs=wcs, target_wcs=target, shape=shape, name="a")
    expected = target.all_world2pix(*wcs.all_pix2world(621.3, 538.8, 0), 0)
    centre = (out * x).sum() / out.sum(), (out * y).sum() / out.sum()
    np.testing.assert_allclose(centre, expected, atol=0.02)
    assert np.abs(np.subtract(expected, (621.3, 538.8)) - (4.0, 2.0)).max() > 0.2


@needs_swarp
def test_missing_and_saturated_pixels_are_masked_and_no_more():
    shape, grid = (120, 130), (110, 140)
    data = np.ones(shape, np.float32)
    mask = np.zeros(shape, np.uint8)
    data[50, 40], mask[50, 40] = np.nan, MASK_MISSING
    data[70, 90], mask[70, 90] = 5e4, MASK_SATURATED
    wcs, target = frame(shape), frame(grid, shift=(0.4, 0.3))
    mapping = wcs_mapping(target, wcs, grid)
    prepared = Prepared(data, np.full(shape, 2, np.float32), mask, np.zeros(shape, np.float32))
    out, noise, masked, _ = resample_by_swarp(
        prepared, mapping, wcs=wcs, target_wcs=target, resampling="lanczos3", name="a"
    )
    missing = (masked & MASK_MISSING) > 0
    np.testing.assert_array_equal(missing, np.isnan(out))
    np.testing.assert_array_equal(missing, np.isnan(noise))
    x, y = np.rint(target.world_to_pixel(wcs.pixel_to_world(40, 50))).astype(int)
    assert missing[y, x]
    assert missing[y - 4 : y + 5, x - 4 : x + 5].sum() == 5
    x, y = np.rint(target.world_to_pixel(wcs.pixel_to_world(90, 70))).astype(int)
    assert masked[y, x] == MASK_SATURATED
    assert ((masked & MASK_SATURATED) > 0).sum() == 5
    assert missing[:, :4].all()  # the reference is narrower than the grid
    np.testing.assert_allclose(noise[~missing], 2, rtol=1e-4)
    np.testing.assert_allclose(out[20:40, 20:60], 1, rtol=1e-3)


@pytest.fixture(scope="module")
def sky():
    return make_sky()


@pytest.fixture(scope="module")
def science(sky):
    return observe(sky, seed=2)


def run(science, reference, *, resampling="bilinear"):
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    planes = {"science_data": prepared.sci, "science_noise": prepared.noise, "science_mask": prepared.mask}
    options = SubtractOptions(align="swarp", resampling=resampling)
    return align_reference(reference, **planes, science_wcs=science.wcs, name=science.name, seeing=2.5, options=options)


def offset(science, aligned):
    """Median offset of the stars of the aligned reference from those of the science image [px]."""
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    ours = find_stars(prepared.sci, prepared.noise, prepared.mask, threshold=20)
    theirs = find_stars(aligned.data, aligned.noise, aligned.mask, threshold=20)
    dx, dy = (theirs[key].to_numpy()[:, None] - ours[key].to_numpy() for key in ("x", "y"))
    near = np.hypot(dx, dy) < 4
    assert near.sum() > 40
    return np.median(dx[near]), np.median(dy[near])


@needs_swarp
@pytest.mark.parametrize("resampling", ["bilinear", "lanczos3"])
def test_a_turned_reference_lands_on_the_stars(sky, science, resampling):
    aligned = run(science, observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6)), resampling=resampling)
    assert (aligned.record["align"], aligned.record["resampling"]) == ("swarp", resampling)
    assert aligned.record["align_n_stars"] == pytest.approx(len(aligned.stars), abs=3)
    assert aligned.record["align_scatter"] < 0.15
    np.testing.assert_allclose(offset(science, aligned), 0, atol=0.03)
    assert np.median(aligned.stars["flux"] / aligned.stars["flux_reference"]) == pytest.approx(1, abs=0.01)


@needs_swarp
def test_a_wrong_wcs_stays_wrong_and_shows(sky, science):
    aligned = run(science, observe(sky, seed=3, wcs_error=(1.5, -0.8)))
    np.testing.assert_allclose(offset(science, aligned), (-1.5, 0.8), atol=0.05)
    assert aligned.record["align_offset"] == pytest.approx(1.7, abs=0.05)
    assert aligned.record["align_scatter"] == pytest.approx(1.7 / np.sqrt(2), abs=0.05)
    assert len(aligned.stars) > 60


@pytest.mark.parametrize(("which", "named"), [("reference", "the reference"), ("science", "the science image")])
def test_a_wcs_is_needed_in_both(sky, science, which, named):
    images = {"science": science, "reference": observe(sky, seed=3)}
    images[which] = observe(sky, seed=3, wcs=False)
    with pytest.raises(ImageError, match=f"science: wcs: subtract.align is swarp, but {named} has no celestial WCS"):
        run(images["science"], images["reference"])


def test_no_overlap_is_told(sky, science):
    with pytest.raises(ImageError, match="science: reference: the reference covers 0 % of the field"):
        run(science, observe(sky, seed=3, shift=(9999.0, 0.0)))


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingProgramError, match="swarp is not on the PATH"):
        run_swarp(np.zeros((9, 9), np.float32), wcs=None, target_wcs=None, shape=(9, 9), name="a")


@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("echo '> *Error*: no disk space' >&2; exit 1", r"image a: align: SWarp failed: Error\*: no disk space"),
        ("exit 0", "image a: align: SWarp failed: no message"),
    ],
)
def test_a_failure_is_told_in_its_own_words(tmp_path, monkeypatch, script, match):
    program = tmp_path / "SWarp"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("otrain_core.images.swarp.find_program", lambda name: str(program))
    wcs = frame((30, 30))
    with pytest.raises(ImageError, match=match):
        run_swarp(np.zeros((30, 30), np.float32), wcs=wcs, target_wcs=wcs, shape=(30, 30), name="a")


@needs_swarp
def test_the_files_are_kept_on_request(tmp_path):
    wcs = frame((30, 30))
    options = {"wcs": wcs, "target_wcs": wcs, "shape": (30, 30), "name": "a"}
    out, _ = run_swarp(np.ones((30, 30), np.float32), **options, workdir=tmp_path / "kept")
    np.testing.assert_array_equal(fits.getdata(tmp_path / "kept" / "output.fits"), out)
