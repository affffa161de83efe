"""Subtraction: constant sources vanish, new sources keep their flux, and missing pixels are masked."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from scipy import ndimage

from otrain_core import io
from otrain_core.errors import ImageError, MissingProgramError
from otrain_core.images.align import align_reference
from otrain_core.images.frames import (
    MASK_BAD,
    MASK_COSMIC,
    MASK_MISSING,
    MASK_REFERENCE,
    MASK_SATURATED,
    read_planes,
    write_planes,
)
from otrain_core.images.kernel import KernelField
from otrain_core.images.prepare import prepare_image
from otrain_core.images.subtract import available_method, subtract_files, subtract_images
from otrain_core.plan.pipelines import PrepareOptions, SubtractOptions
from otrain_core.plan.telescopes import Detector
from tests.unit.synthetic_field import star
from tests.unit.synthetic_pair import already_aligned, difference, make_sky, observe

SHAPE = (320, 360)


@pytest.fixture(scope="module")
def sky():
    return make_sky(shape=SHAPE, n=200)


def test_an_image_from_itself_is_zero(sky):
    image = observe(sky, seed=1, fwhm=2.5)
    prepared = prepare_image(image, seeing=2.5, options=PrepareOptions(cosmics="none"))
    planes = prepared.sci, prepared.noise, prepared.mask
    aligned = already_aligned(*planes)
    result = subtract_images(*planes, aligned, name="a", options=SubtractOptions(max_noise_correlation=1))
    assert result.record["flux_scale"] == pytest.approx(1, abs=1e-5)
    assert np.nanmax(np.abs(result.diff)) < 2e-4 * np.nanmax(prepared.sci)
    assert np.nanmax(np.abs(result.diff) / result.noise) < 0.05


@pytest.mark.parametrize(("fwhm", "fwhm_reference"), [(3.2, 2.4), (2.4, 3.2)])
def test_a_new_source_keeps_its_flux(sky, fwhm, fwhm_reference):
    rng = np.random.default_rng(5)
    taken = np.zeros(SHAPE, bool)
    x, y = np.rint([sky.x, sky.y]).astype(int)
    taken[y.clip(0, SHAPE[0] - 1), x.clip(0, SHAPE[1] - 1)] = True
    free = ndimage.distance_transform_edt(~taken) > 14
    free[:25], free[-25:], free[:, :25], free[:, -25:] = False, False, False, False
    new = []
    for _ in range(100_000):
        row, column = rng.integers(0, SHAPE[0]), rng.integers(0, SHAPE[1])
        if free[row, column] and len(new) < 20:
            new.append((column + rng.uniform(-0.5, 0.5), row + rng.uniform(-0.5, 0.5), 4000.0))
            free[max(0, row - 14) : row + 15, max(0, column - 14) : column + 15] = False
    assert len(new) == 20
    science = observe(sky, seed=2, fwhm=fwhm, extra=new)
    result = difference(science, observe(sky, seed=3, fwhm=fwhm_reference, shift=(1.4, 0.3)))
    rows, columns = np.indices(SHAPE)
    fluxes, errors = [], []
    for xi, yi, _ in new:
        aperture = np.hypot(columns - xi, rows - yi) < 9
        fluxes.append(result.diff[aperture].sum())
        errors.append(np.sqrt((result.noise[aperture] ** 2).sum()))
    assert 4000 / np.median(errors) > 20
    assert np.mean(fluxes) == pytest.approx(4000, rel=0.02)


def test_missing_and_saturated_pixels_are_masked_and_nothing_else(sky):
    science = observe(sky, seed=2, fwhm=3.0)
    reference = observe(sky, seed=3, fwhm=2.4, saturation=9000.0)
    science.data[100:103, 50] = np.nan
    science.saturation = 0.9 * float(np.nanmax(science.data))
    reference.data[200, 150] = np.nan
    reference.data[250:260, 300:310] = np.nan

    def change(prepared):
        prepared.mask[30, 40] = MASK_COSMIC
        prepared.sci[30, 40] = np.nan
        prepared.mask[33, 40] = MASK_BAD
        prepared.mask[36, 40] = MASK_COSMIC  # repaired
        prepared.sci[39, 40], prepared.mask[39, 40] = np.nan, 0

    result = difference(science, reference, change=change)
    assert np.isnan(result.diff[100:103, 50]).all()
    assert (result.mask[100:103, 50] & MASK_MISSING).all()
    assert np.isnan(result.diff[30, 40])
    assert result.mask[30, 40] == MASK_COSMIC
    assert np.isnan(result.diff[33, 40])
    assert np.isfinite(result.diff[36, 40])
    assert result.mask[36, 40] == MASK_COSMIC
    assert np.isnan(result.diff[39, 40])
    assert result.mask[39, 40] == MASK_MISSING
    assert np.isnan(result.diff[200, 150])
    assert result.mask[200, 150] & MASK_REFERENCE
    assert (result.mask[250:260, 300:310] & MASK_REFERENCE).all()
    assert ((result.mask & MASK_SATURATED) > 0).any()
    np.testing.assert_array_equal(np.isnan(result.diff), np.isnan(result.noise))
    good = np.isfinite(result.diff)
    assert not (result.diff[good] == 0).any()
    # A hole grows only by the pixels where the kernel has weight.
    hole = np.isnan(result.diff[190:211, 140:161])
    assert 5 <= hole.sum() <= 60
    assert not hole[0].any()
    # Every reference pixel above its saturation leaves a masked difference.
    assert np.isnan(result.diff[reference.data >= 9000]).all()
    assert 0.9 < result.record["noise_spread"] < 1.1


def test_the_same_input_gives_the_same_bytes(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4, angle=0.1)
    first, second = (difference(science, reference) for _ in range(2))
    assert first.diff.tobytes() == second.diff.tobytes()


def test_a_missing_program_is_named_before_any_work(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingProgramError, match="hotpants is not on the PATH; it is to be had as built from"):
        available_method(SubtractOptions(method="hotpants"), name="a")
    assert available_method(SubtractOptions(), name="a") == "alard-lupton"


@pytest.mark.parametrize("program", [None, "/nowhere/hotpants"])
def test_the_fallback_is_used_and_said(sky, monkeypatch, caplog, program):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    wanted = difference(science, reference)
    monkeypatch.setenv("PATH", "")
    result = difference(science, reference, method="hotpants", fallback="alard-lupton", hotpants_program=program)
    assert (result.record["method"], result.record["wanted_method"]) == ("alard-lupton", "hotpants")
    assert "wanted_method" not in wanted.record
    np.testing.assert_array_equal(result.diff, wanted.diff)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert "image science: " in caplog.text
    assert "using subtract.fallback: alard-lupton" in caplog.text


def test_the_record_tells_how_well_the_stars_match(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4, factor=0.8)
    record = difference(science, reference).record
    assert abs(record["star_residual"]) < 0.02
    assert record["star_residual_stars"] >= 30
    assert 0 <= record["rejected_fraction"] < 0.3
    assert record["flux_scale_stars"] == pytest.approx(1 / 0.8, rel=0.02)


def test_a_failed_kernel_is_refused_though_the_sky_is_clean(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    planes = {"science_data": prepared.sci, "science_noise": prepared.noise, "science_mask": prepared.mask}
    aligned = align_reference(reference, **planes, science_wcs=science.wcs, name="science", seeing=3.0)
    aligned.data = np.roll(aligned.data, 7, axis=1)  # as far as the kernel reaches
    options = SubtractOptions(kernel_half_width=7, kernel_order=0)
    with pytest.raises(
        ImageError, match=r"science: subtract: bright stars leave \d+ % of their flux in the difference"
    ):
        subtract_images(prepared.sci, prepared.noise, prepared.mask, aligned, name="science", options=options)
    loose = SubtractOptions(kernel_half_width=7, kernel_order=0, max_star_residual=99, max_model_error=99)
    result = subtract_images(prepared.sci, prepared.noise, prepared.mask, aligned, name="science", options=loose)
    assert result.record["star_residual"] > 0.4
    assert result.record["noise_spread"] < 1.15


def test_wrong_noise_shows_in_the_spread(sky):
    def change(prepared):
        prepared.noise /= 2

    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    match = r"science: subtract: .*the scatter of the difference is 1\.\d+ times its noise .*max_noise_spread is 1\.4"
    with pytest.raises(ImageError, match=match):
        difference(science, reference, change=change, max_noise_spread=1.4)
    spread = difference(science, reference, change=change).record["noise_spread"]
    assert 1.5 < spread < 2  # the noise of the reference is unchanged


def arrays(n=100):
    rng = np.random.default_rng(1)
    return rng.normal(0, 1, (n, n)).astype(np.float32), np.ones((n, n), np.float32), np.zeros((n, n), np.uint8)


def test_without_stars_there_is_no_kernel():
    data, noise, mask = arrays()
    aligned = already_aligned(data, noise, mask)
    with pytest.raises(ImageError, match="a: subtract: 0 stars found in both images; at least 3 are needed"):
        subtract_images(data, noise, mask, aligned, name="a")


def test_no_common_pixels_is_told():
    data, noise, mask = arrays()
    aligned = already_aligned(data, noise, mask)
    aligned.data[:, 3:] = np.nan
    with pytest.raises(ImageError, match="a: subtract: science image and reference have no good pixels in common"):
        subtract_images(data, noise, mask, aligned, name="a")


def test_planes_and_record_are_written(sky, tmp_path):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4, shift=(2.0, 1.0))
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    planes = {"sci": prepared.sci, "noise": prepared.noise, "mask": prepared.mask, "background": prepared.background}
    science.header["OBJECT"] = "field 7"
    write_planes(tmp_path / "prepared.fits", planes, science.header)
    fits.writeto(tmp_path / "reference.fits", reference.data, reference.header, overwrite=True)
    io.write_json(tmp_path / "psf.json", {"seeing_px": 3.0})
    subtract_files(
        prepared=tmp_path / "prepared.fits",
        psf_record=tmp_path / "psf.json",
        reference=tmp_path / "reference.fits",
        difference=tmp_path / "difference.fits",
        record=tmp_path / "subtract.json",
        image="science",
        detector=Detector(gain=1.5, read_noise=4.0, saturation=60000.0),
        wcs=None,
        options=SubtractOptions(kernel_order=1),
    )
    written, header = read_planes(tmp_path / "difference.fits", image="science")
    assert list(written) == ["diff", "noise", "mask", "science", "reference"]
    assert header["OBJECT"] == "field 7"
    np.testing.assert_array_equal(written["science"], prepared.sci)
    record = io.read_json(tmp_path / "subtract.json")
    assert record["image"] == "science"
    assert record["kernel_order"] == 1
    assert record["align"] == "wcs"
    assert {"noise_spread", "flux_scale", "cpu_seconds", "n_stamps", "seeing_reference_px"} <= set(record)


@pytest.mark.skipif(not (shutil.which("SWarp") or shutil.which("swarp")), reason="the program swarp is not installed")
def test_stars_are_taken_out_and_the_refined_wcs_is_used(sky, tmp_path):
    science = observe(sky, seed=2, fwhm=3.0, wcs_error=(2.0, -1.0))
    reference = observe(sky, seed=3, fwhm=2.4, shift=(2.0, 1.0))
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    planes = {"sci": prepared.sci, "noise": prepared.noise, "mask": prepared.mask, "background": prepared.background}
    write_planes(tmp_path / "prepared.fits", planes, science.header)
    fits.writeto(tmp_path / "reference.fits", reference.data, reference.header)
    refined = observe(sky, seed=2, fwhm=3.0).wcs.to_header_string(relax=True)
    asked = []

    def remove_stars(image, stars, *, name):
        asked.append((image.data.shape, list(stars["id"]), name))
        return image, {"removed": [4], "failed": [{"id": 7, "reason": "blended"}]}

    kinds = {"id": [3, 4, 7], "kind": ["random", "removed", "removed"]}
    pd.DataFrame(kinds | {"ra": 150.0, "dec": 20.0, "flux": 1.0}).to_csv(tmp_path / "injected.csv", index=False)
    options = SubtractOptions(align="swarp", resampling="lanczos3", kernel_order=1)
    records = {}
    for name, wcs in (("refined", refined), ("own", None)):
        io.write_json(tmp_path / "psf.json", {"seeing_px": 3.0, "wcs": wcs})
        subtract_files(
            prepared=tmp_path / "prepared.fits",
            psf_record=tmp_path / "psf.json",
            reference=tmp_path / "reference.fits",
            difference=tmp_path / "difference.fits",
            record=tmp_path / "subtract.json",
            image="science",
            detector=Detector(gain=1.5, read_noise=4.0, saturation=60000.0),
            wcs=None,
            injected=tmp_path / "injected.csv",
            options=options,
            remove_stars=remove_stars,
        )
        records[name] = io.read_json(tmp_path / "subtract.json")
    assert asked == [(SHAPE, [4, 7], "science")] * 2
    assert records["refined"]["removed"] == [4]
    assert records["refined"]["removed_failed"][0]["id"] == 7
    assert (records["refined"]["align"], records["refined"]["resampling"]) == ("swarp", "lanczos3")
    assert records["refined"]["align_offset"] < 0.1
    assert records["own"]["align_offset"] == pytest.approx(np.hypot(2, 1), abs=0.1)


def stack(sky, n, *, first):
    """Mean of n frames on the grid of the science image, the first of seed `first`."""
    frames = [observe(sky, seed=first + k, fwhm=2.4) for k in range(n)]
    frames[0].data = np.mean([frame.data for frame in frames], axis=0)
    frames[0].gain, frames[0].read_noise = frames[0].gain * n, frames[0].read_noise * np.sqrt(n)
    return frames[0]


def test_the_same_exposure_is_no_reference(sky):
    image = observe(sky, seed=1, fwhm=2.5)
    with pytest.raises(ImageError, match="image science: reference: the science image and the reference are the same"):
        difference(image, image)


@pytest.mark.parametrize("n", [3, 10])
def test_a_stack_that_holds_the_science_image_is_refused(sky, n):
    science = observe(sky, seed=20, fwhm=2.4)
    match = "image science: reference: the science image is one of the exposures of the reference"
    with pytest.raises(ImageError, match=match):
        difference(science, stack(sky, n, first=20))
    record = difference(science, stack(sky, n, first=20), max_noise_correlation=1).record
    assert record["noise_correlation"] == pytest.approx(1 / np.sqrt(n), abs=0.03)
    assert abs(difference(science, stack(sky, n, first=50)).record["noise_correlation"]) < 0.03


def test_a_reference_that_is_not_linear_is_refused(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    record = difference(science, reference).record
    assert record["flux_slope"] == pytest.approx(1, abs=0.02)
    assert record["flux_slope_low"] < 1 < record["flux_slope_high"]
    reference.data = (1.0857362 * np.arcsinh((reference.data - 100) / 80)).astype(np.float32)
    with pytest.raises(
        ImageError, match=r"science: reference: the fluxes of stars .* to the power of 0\.\d+ .*not linear"
    ):
        difference(science, reference)


def test_fluxes_that_scatter_are_refused(sky):
    rng = np.random.default_rng(4)
    other = dataclasses.replace(sky, flux=sky.flux * np.exp(rng.normal(0, 1.0, len(sky.flux))))
    with pytest.raises(
        ImageError, match=r"science: reference: the flux ratios of stars in both images scatter by \d+ %"
    ):
        difference(observe(other, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4), max_flux_slope=5)


def test_a_kernel_that_explains_little_is_refused(sky):
    science, reference = observe(sky, seed=2, fwhm=3.2, variation=0.5), observe(sky, seed=3, fwhm=2.3)
    assert difference(science, reference).record["model_error"] < 0.05
    record = difference(science, reference, kernel_order=0).record
    assert 0.02 < record["model_error_low"] < record["model_error"]
    with pytest.raises(
        ImageError, match=r"science: subtract: the kernel leaves at least \d+ % of the signal of bright"
    ):
        difference(science, reference, kernel_order=0, max_model_error=0.01)


def test_faint_stars_do_not_make_a_kernel_bad():
    faint = make_sky(shape=SHAPE, n=40, margin=20, logflux=(3.0, 3.3), seed=5)
    record = difference(observe(faint, seed=2, fwhm=3.0), observe(faint, seed=3, fwhm=2.4)).record
    assert record["model_error_low"] < 0.1


@pytest.mark.parametrize("fwhm_reference", [3.4, 2.4])
def test_the_kernel_of_a_convolved_science_image_is_kept(sky, fwhm_reference):
    new = [(180.3, 141.8, 6000.0)]
    result = difference(observe(sky, seed=2, fwhm=2.8, extra=new), observe(sky, seed=3, fwhm=fwhm_reference))
    if fwhm_reference < 2.8:
        assert result.kernel is None
        return
    assert result.kernel[0].sum() == pytest.approx(1, abs=1e-5)
    field = KernelField.from_kernels(result.kernel, SHAPE)
    source = np.zeros(SHAPE, np.float32)
    source[:] = star(180.3, 141.8, 2.8, SHAPE)
    model = field.apply(source)
    near = np.s_[137:147, 175:186]
    flux = (result.diff * model)[near].sum() / (model**2)[near].sum()
    assert flux == pytest.approx(6000, rel=0.03)
    chi2 = (((result.diff - flux * model) / result.noise)[near] ** 2).mean()
    assert chi2 < 1.5
