"""Subtraction: what is the same vanishes, what is new keeps its flux, what is missing is masked."""

import dataclasses
import os
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from otrain_core import io
from otrain_core.errors import ImageError, MissingProgramError
from otrain_core.images import alard_lupton, kernel, subtract
from otrain_core.images.align import align_reference
from otrain_core.images.common_stars import choose_stamps, star_residual
from otrain_core.images.frames import (
    MASK_BAD,
    MASK_COSMIC,
    MASK_MISSING,
    MASK_REFERENCE,
    MASK_SATURATED,
    read_planes,
    write_planes,
)
from otrain_core.images.prepare import prepare_image
from otrain_core.images.subtract import aligned_from_arrays, subtract_images
from otrain_core.plan.pipelines import PrepareOptions
from tests.unit.synthetic_pair import make_sky, observe

SHAPE = (320, 360)


@pytest.fixture(scope="module")
def sky():
    return make_sky(shape=SHAPE, n=200)


def difference(science, reference, *, change=None, **options):
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    if change:
        change(prepared)
    aligned = align_reference(
        reference,
        science_data=prepared.sci,
        science_noise=prepared.noise,
        science_mask=prepared.mask,
        science_wcs=science.wcs,
        name=science.name,
        seeing=3.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return subtract_images(prepared.sci, prepared.noise, prepared.mask, aligned, name=science.name, **options)


def gaussian(sigma, half=12):
    u = np.arange(-half, half + 1)
    line = np.exp(-0.5 * (u / sigma) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def test_an_image_from_itself_is_zero(sky):
    image = observe(sky, seed=1, fwhm=2.5)
    prepared = prepare_image(image, seeing=2.5, options=PrepareOptions(cosmics="none"))
    planes = prepared.sci, prepared.noise, prepared.mask
    aligned = aligned_from_arrays(
        *planes, science=prepared.sci, science_noise=prepared.noise, science_mask=prepared.mask
    )
    result = subtract_images(*planes, aligned, name="a")
    assert result.record["flux_scale"] == pytest.approx(1, abs=1e-5)
    assert np.nanmax(np.abs(result.diff)) < 2e-4 * np.nanmax(prepared.sci)
    assert np.nanmax(np.abs(result.diff) / result.noise) < 0.05


def test_a_constant_kernel_is_recovered():
    rng = np.random.default_rng(1)
    source = np.zeros((300, 300), np.float32)
    x, y = (rng.integers(25, 275, 60) for _ in range(2))
    source[y, x] = rng.uniform(1e3, 1e5, 60)
    source = ndimage.gaussian_filter(source, 1.2)
    truth = 0.7 * gaussian(1.5, 8)
    target = ndimage.convolve(source, truth, mode="constant") + np.float32(3.0)
    bad = np.zeros(source.shape, bool)
    spoilt = target.copy()
    for row, column in zip(y[:20] + 3, x[:20] + 4, strict=True):
        bad[row, column], spoilt[row, column] = True, 1e5
    fit = kernel.fit_kernel(
        source,
        spoilt,
        np.full(source.shape, 1.0, np.float32),
        np.zeros(source.shape, np.float32),
        bad,
        x,
        y,
        basis=kernel.make_basis((0.9, 1.5, 3.0), 8),
        half=8,
        order=0,
        background_order=0,
    )
    assert fit.scale == pytest.approx(0.7, abs=2e-3)
    np.testing.assert_allclose(fit.at(150, 150), truth, atol=0.01 * truth.max())
    assert fit.background[0] == pytest.approx(3.0, abs=0.5)
    error = target - fit.apply(source) - fit.background_map()
    assert np.abs(error[20:-20, 20:-20]).max() < 2e-3 * target.max()


def test_the_variance_of_interpolated_and_convolved_noise():
    from otrain_core.images.resample import Mapping, resample

    rng = np.random.default_rng(1)
    data = rng.normal(0, 3, (300, 300)).astype(np.float32)
    mapping = Mapping(lambda x, y: (x + 0.01 * y + 5.3, y - 0.01 * x + 7.4), (280, 280))
    planes = data, np.full_like(data, 3), np.zeros(data.shape, np.uint8)
    out, sigma, _, smoothing = resample(*planes, mapping)
    field = kernel.KernelField(gaussian(0.4, 5)[None] * 0.8, np.zeros(1), (280, 280), 0, 0)
    convolved = field.apply(np.nan_to_num(out))[20:-20, 20:-20]
    expected = alard_lupton.convolved_variance(np.nan_to_num(sigma, nan=3.0) ** 2, field, smoothing)[20:-20, 20:-20]
    assert convolved.var() == pytest.approx(expected.mean(), rel=0.03)
    white = alard_lupton.convolved_variance(np.nan_to_num(sigma, nan=3.0) ** 2, field, None)[20:-20, 20:-20]
    assert expected.mean() < 0.9 * white.mean()


def test_only_the_first_basis_has_a_sum():
    kernels = kernel.make_basis((0.7, 1.5, 3.0), 9).kernels()
    assert len(kernels) == 28 + 15 + 6 + 1
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), [1] + [0] * 49, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 65), (101, 80)])
def test_the_field_of_kernels_is_applied_at_every_pixel(size):
    rng = np.random.default_rng(1)
    kernels = rng.normal(0, 1, (3, 7, 7))
    field = kernel.KernelField(kernels, np.array([1.0, 2.0, 3.0]), size, 1, 1)
    source = rng.normal(0, 1, size).astype(np.float32)
    out = field.apply(source)
    padded = np.pad(source, 3)
    power, background = field.power(), field.background_map()
    for y, x in [(0, 0), (10, 33), (size[0] - 1, size[1] - 1), (40, 2)]:
        here = field.at(x, y)
        assert out[y, x] == pytest.approx((padded[y : y + 7, x : x + 7] * here[::-1, ::-1]).sum(), abs=1e-3)
        assert power[y, x] == pytest.approx((here**2).sum(), rel=1e-4)
    assert background[0, 0] == pytest.approx(1 - 2 - 3)
    assert background[-1, -1] == pytest.approx(1 + 2 + 3)


@pytest.mark.parametrize(
    ("fwhm", "fwhm_reference", "convolved"), [(3.4, 2.5, "reference"), (2.5, 3.4, "science"), (3.0, 3.0, None)]
)
def test_the_noise_is_right_and_the_flux_ratio_is_found(sky, fwhm, fwhm_reference, convolved):
    science = observe(sky, seed=2, fwhm=fwhm, level=150)
    reference = observe(sky, seed=3, fwhm=fwhm_reference, angle=0.2, shift=(3.4, 2.6), factor=2.0)
    result = difference(science, reference)
    if convolved:
        assert result.record["convolved"] == convolved
    assert result.record["flux_scale"] == pytest.approx(0.5, rel=0.01)
    assert 0.95 < result.record["noise_spread"] < 1.05
    assert abs(result.record["noise_centre"]) < 0.1
    # No trace of the stars: the cores are as noisy as they must be, within the errors of the kernel.
    x, y = np.rint([sky.x, sky.y]).astype(int)
    inside = (x > 25) & (y > 25) & (x < SHAPE[1] - 25) & (y < SHAPE[0] - 25)
    scatter = (result.diff / result.noise)[y[inside], x[inside]]
    assert np.isfinite(scatter).mean() > 0.95
    assert np.sqrt(np.nanmedian(scatter**2)) < 1.2 * 0.6745
    assert (np.abs(scatter) > 5).mean() < 0.1


def test_a_psf_that_varies_over_the_field_needs_the_order(sky):
    science = observe(sky, seed=2, fwhm=3.2, variation=0.5)
    reference = observe(sky, seed=3, fwhm=2.3, shift=(0.4, 0.3))
    bright = sky.flux > 2e4

    def residual(order):
        result = difference(science, reference, kernel_order=order)
        x, y = np.rint([sky.x[bright], sky.y[bright]]).astype(int)
        inside = (x > 25) & (y > 25) & (x < SHAPE[1] - 25) & (y < SHAPE[0] - 25)
        return np.nanmedian(np.abs(result.diff / result.noise)[y[inside], x[inside]])

    constant, varying = residual(0), residual(2)
    assert varying < 2
    assert varying < 0.2 * constant


@pytest.mark.parametrize(("fwhm", "fwhm_reference"), [(3.2, 2.4), (2.4, 3.2)])
def test_a_new_source_keeps_its_flux(sky, fwhm, fwhm_reference):
    rng = np.random.default_rng(5)
    taken = np.zeros(SHAPE, bool)
    x, y = np.rint([sky.x, sky.y]).astype(int)
    taken[y.clip(0, SHAPE[0] - 1), x.clip(0, SHAPE[1] - 1)] = True
    free = ndimage.distance_transform_edt(~taken) > 14
    free[:25], free[-25:], free[:, :25], free[:, -25:] = False, False, False, False
    new = []
    while len(new) < 20:
        row, column = rng.integers(0, SHAPE[0]), rng.integers(0, SHAPE[1])
        if free[row, column]:
            new.append((column + rng.uniform(-0.5, 0.5), row + rng.uniform(-0.5, 0.5), 4000.0))
            free[max(0, row - 14) : row + 15, max(0, column - 14) : column + 15] = False
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
    # A hole grows by where the kernel has weight, not by the whole kernel.
    hole = np.isnan(result.diff[190:211, 140:161])
    assert 5 <= hole.sum() <= 60
    assert not hole[0].any()
    # Every reference pixel above its saturation leaves a masked difference.
    assert np.isnan(result.diff[reference.data >= 9000]).all()
    assert 0.9 < result.record["noise_spread"] < 1.1


def test_a_cosmic_ray_in_a_stamp_does_not_touch_the_kernel(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    clean = difference(science, reference)
    star = np.argmax(sky.flux * (np.hypot(sky.x - 180, sky.y - 160) < 100))
    x, y = round(sky.x[star]), round(sky.y[star])
    science.data[y + 3, x + 2 : x + 5] += 20000
    hit = difference(science, reference)
    assert hit.record["flux_scale"] == pytest.approx(clean.record["flux_scale"], rel=2e-3)
    near = np.s_[y - 4 : y + 2, x - 4 : x + 2]
    assert np.abs(hit.diff[near] - clean.diff[near]).max() < 3 * clean.noise[near].max()


def test_variable_stars_are_left_out_of_the_fit(sky):
    other = dataclasses.replace(sky, flux=sky.flux * np.where(np.arange(len(sky.x)) % 8 == 0, 1.5, 1.0))
    result = difference(observe(other, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4))
    assert result.record["flux_scale"] == pytest.approx(1.0, rel=0.01)
    assert result.record["n_stamps_rejected"] >= 5


def test_the_order_falls_where_stars_are_few():
    few = make_sky(shape=SHAPE, n=12, margin=40, logflux=(4, 5), seed=4)
    result = difference(observe(few, seed=2, fwhm=3.0), observe(few, seed=3, fwhm=2.4))
    assert result.record["kernel_order"] < 2
    assert 0.9 < result.record["noise_spread"] < 1.1


def test_the_same_input_gives_the_same_bytes(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4, angle=0.1)
    first, second = (difference(science, reference) for _ in range(2))
    assert first.diff.tobytes() == second.diff.tobytes()


def test_stamps_are_spread_and_clean():
    import pandas as pd

    rng = np.random.default_rng(1)
    stars = pd.DataFrame({"x": rng.uniform(0, 200, 500), "y": rng.uniform(0, 200, 500), "flux": rng.uniform(1, 9, 500)})
    stars.loc[stars["x"] < 100, "flux"] *= 100  # the brightest are all on one side
    bad = np.zeros((200, 200), bool)
    bad[50:60, 150:160] = True
    x, y = choose_stamps(stars, bad, half=5, margin=12, max_stamps=64)
    assert len(x) == 64
    assert min(x.min(), y.min()) >= 12
    assert max(x.max(), y.max()) < 188
    assert not bad[y, x].any()
    assert 24 <= (x > 100).sum() <= 40


def test_zogy_recovers_flux_and_noise(sky):
    new = [(180.3, 141.8, 6000.0)]
    science = observe(sky, seed=2, fwhm=3.0, extra=new)
    result = difference(science, observe(sky, seed=3, fwhm=2.4), method="zogy")
    assert result.record["method"] == "zogy"
    assert 0.9 < result.record["noise_spread"] < 1.1
    rows, columns = np.indices(SHAPE)
    aperture = np.hypot(columns - 180.3, rows - 141.8) < 9
    assert result.diff[aperture].sum() == pytest.approx(6000, rel=0.1)


HOTPANTS = shutil.which(os.environ.get("OTRAIN_HOTPANTS", "hotpants"))


@pytest.mark.skipif(HOTPANTS is None, reason="the program hotpants is not on the PATH (or named by OTRAIN_HOTPANTS)")
@pytest.mark.parametrize(("fwhm", "fwhm_reference"), [(3.2, 2.4), (2.4, 3.2)])
def test_hotpants_and_ours_agree(sky, fwhm, fwhm_reference):
    new = [(180.3, 141.8, 6000.0)]
    science = observe(sky, seed=2, fwhm=fwhm, extra=new)
    reference = observe(sky, seed=3, fwhm=fwhm_reference, factor=2.0)
    ours = difference(science, reference)
    theirs = difference(science, reference, method="hotpants", hotpants_program=HOTPANTS)
    assert theirs.record["flux_scale"] == pytest.approx(ours.record["flux_scale"], rel=0.02)
    both = np.isfinite(ours.diff) & np.isfinite(theirs.diff)
    assert both.mean() > 0.8
    assert np.std((ours.diff - theirs.diff)[both] / ours.noise[both]) < 0.7
    rows, columns = np.indices(SHAPE)
    aperture = np.hypot(columns - 180.3, rows - 141.8) < 8
    assert theirs.diff[aperture].sum() == pytest.approx(6000, rel=0.05)


def test_a_missing_program_is_named_before_any_work(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingProgramError, match="hotpants is not on the PATH; it is to be had as built from"):
        subtract.available_method("hotpants")
    assert subtract.available_method("alard-lupton") == "alard-lupton"


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
    assert "subtract.fallback: alard-lupton is used" in caplog.text


def test_the_record_tells_how_well_the_stars_match(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4, factor=0.8)
    record = difference(science, reference).record
    assert abs(record["star_residual"]) < 0.02
    assert record["star_residual_stars"] >= 30
    assert 0 <= record["rejected_fraction"] < 0.3
    assert record["flux_scale_stars"] == pytest.approx(1 / 0.8, rel=0.02)


def lamp(*, share=0.0, moved=0.0):
    """Eight stars of 1e5 ADU, FWHM 3 px (15/16 of the flux within one FWHM), that leave a share of it or a dipole."""
    rows, columns = np.indices((120, 240))
    rng = np.random.default_rng(1)
    diff = rng.normal(0, 5, rows.shape)
    stars = []
    for number in range(8):
        x, y = 20 + 27.3 * number, 40.2 + 5 * number
        profiles = [np.exp(-0.5 * ((columns - x - d) ** 2 + (rows - y) ** 2) / (3 / 2.355) ** 2) for d in (0, moved)]
        first, second = (1e5 * profile / profile.sum() for profile in profiles)
        diff += first - (1 - share) * second
        stars.append((x, y, 1e5))
    return diff.astype(np.float32), np.full(diff.shape, 5, np.float32), pd.DataFrame(stars, columns=["x", "y", "flux"])


@pytest.mark.parametrize(("options", "expected"), [({}, 0.0), ({"share": 0.2}, 0.1875), ({"moved": 9.0}, 0.9375)])
def test_the_residual_is_the_share_of_the_flux_that_stays(options, expected):
    value, n = star_residual(*lamp(**options), radius=3.0)
    assert n == 8
    assert value == pytest.approx(expected, abs=0.01)


def test_masked_and_faint_stars_say_nothing_about_the_residual():
    diff, noise, stars = lamp(share=0.2)
    diff[40:42, 20] = np.nan
    assert star_residual(diff, noise, stars, radius=3.0)[1] == 7
    stars.loc[3:, "flux"] = 100
    value, n = star_residual(diff, noise, stars, radius=3.0)
    assert n == 2
    assert np.isnan(value)


def test_a_failed_kernel_is_refused_though_the_sky_is_clean(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    planes = {"science_data": prepared.sci, "science_noise": prepared.noise, "science_mask": prepared.mask}
    aligned = align_reference(reference, **planes, science_wcs=science.wcs, name="science", seeing=3.0)
    aligned.data = np.roll(aligned.data, 7, axis=1)  # as far as the kernel reaches
    options = {"name": "science", "kernel_half_width": 7, "kernel_order": 0}
    with pytest.raises(
        ImageError, match=r"science: subtract: bright stars leave \d+ % of their flux in the difference"
    ):
        subtract_images(prepared.sci, prepared.noise, prepared.mask, aligned, **options)
    result = subtract_images(prepared.sci, prepared.noise, prepared.mask, aligned, **options, max_star_residual=99)
    assert result.record["star_residual"] > 0.4
    assert result.record["noise_spread"] < 1.15


def test_a_misaligned_reference_is_refused(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    with pytest.raises(
        ImageError, match=r"science: subtract: the difference spreads by 1\.\d+ .*max_noise_spread is 0\.5"
    ):
        difference(science, reference, max_noise_spread=0.5)


def test_wrong_noise_shows_in_the_spread(sky):
    def change(prepared):
        prepared.noise /= 3

    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    with pytest.raises(ImageError, match="subtract: the difference spreads by 2"):
        difference(science, reference, change=change)


def arrays(n=100):
    rng = np.random.default_rng(1)
    return rng.normal(0, 1, (n, n)).astype(np.float32), np.ones((n, n), np.float32), np.zeros((n, n), np.uint8)


def test_without_stars_there_is_no_kernel():
    data, noise, mask = arrays()
    aligned = aligned_from_arrays(data, noise, mask, science=data, science_noise=noise, science_mask=mask)
    with pytest.raises(ImageError, match="a: subtract: 0 stars found in both images; at least 3 are needed"):
        subtract_images(data, noise, mask, aligned, name="a")


def test_no_common_pixels_is_told():
    data, noise, mask = arrays()
    aligned = aligned_from_arrays(data, noise, mask, science=data, science_noise=noise, science_mask=mask)
    aligned.data[:, 3:] = np.nan
    with pytest.raises(ImageError, match="a: subtract: science image and reference have no good pixels in common"):
        subtract_images(data, noise, mask, aligned, name="a")


def test_the_script_writes_planes_and_record(sky, tmp_path):
    from scripts.images.subtract import main

    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4, shift=(2.0, 1.0))
    prepared = prepare_image(science, seeing=3.0, options=PrepareOptions(cosmics="none"))
    planes = {"sci": prepared.sci, "noise": prepared.noise, "mask": prepared.mask, "background": prepared.background}
    science.header["OBJECT"] = "field 7"
    write_planes(tmp_path / "prepared.fits", planes, science.header)
    write_planes(tmp_path / "reference.fits", {"sci": reference.data}, reference.header)
    from astropy.io import fits

    fits.writeto(tmp_path / "reference.fits", reference.data, reference.header, overwrite=True)
    io.write_json(tmp_path / "psf.json", {"seeing_px": 3.0})
    main(
        prepared=tmp_path / "prepared.fits",
        psf_record=tmp_path / "psf.json",
        reference=tmp_path / "reference.fits",
        difference=tmp_path / "difference.fits",
        record=tmp_path / "subtract.json",
        image="science",
        telescope={"gain": 1.5, "read_noise": 4.0, "saturation": 60000.0},
        wcs=None,
        options={"method": "alard-lupton", "align": "auto", "kernel_order": 1},
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
def test_the_script_takes_all_options_stars_out_and_the_refined_wcs(sky, tmp_path, monkeypatch):
    from astropy.io import fits

    from otrain_core.plan.pipelines import SubtractOptions
    from otrain_core.stars import real_stars
    from scripts.images.subtract import main

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

    monkeypatch.setattr(real_stars, "remove_stars", remove_stars)
    kinds = {"id": [3, 4, 7], "kind": ["random", "removed", "removed"]}
    pd.DataFrame(kinds | {"ra": 150.0, "dec": 20.0, "flux": 1.0}).to_csv(tmp_path / "injected.csv", index=False)
    options = SubtractOptions(align="swarp", resampling="lanczos3", kernel_order=1).model_dump()
    records = {}
    for name, wcs in (("refined", refined), ("own", None)):
        io.write_json(tmp_path / "psf.json", {"seeing_px": 3.0, "wcs": wcs})
        main(
            prepared=tmp_path / "prepared.fits",
            psf_record=tmp_path / "psf.json",
            reference=tmp_path / "reference.fits",
            difference=tmp_path / "difference.fits",
            record=tmp_path / "subtract.json",
            image="science",
            telescope={"gain": 1.5, "read_noise": 4.0, "saturation": 60000.0},
            wcs=None,
            injected=tmp_path / "injected.csv",
            options=options,
        )
        records[name] = io.read_json(tmp_path / "subtract.json")
    assert asked == [(SHAPE, [4, 7], "science")] * 2
    assert records["refined"]["removed"] == [4]
    assert records["refined"]["removed_failed"][0]["id"] == 7
    assert (records["refined"]["align"], records["refined"]["resampling"]) == ("swarp", "lanczos3")
    assert records["refined"]["align_offset"] < 0.1
    assert records["own"]["align_offset"] == pytest.approx(np.hypot(2, 1), abs=0.1)
