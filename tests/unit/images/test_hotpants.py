"""HOTPANTS: command line, output files, and units of the difference."""

import os
import shutil

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError
from otrain_core.images import hotpants as module
from otrain_core.images.align import align_reference
from otrain_core.images.hotpants import hotpants_command, read_hotpants
from otrain_core.images.prepare import prepare_image
from otrain_core.images.subtract import subtract_images
from otrain_core.plan.pipelines import GMADET, PrepareOptions, SubtractOptions
from tests.unit.synthetic_pair import difference, make_sky, observe

HOTPANTS = shutil.which(os.environ.get("OTRAIN_HOTPANTS", "hotpants"))
needs_hotpants = pytest.mark.skipif(
    HOTPANTS is None, reason="the program hotpants is not on the PATH (or named by OTRAIN_HOTPANTS)"
)


def command(*, convolve_science=False, **given):
    """Command line for fixed sizes of kernel and stamps, with `hotpants_options`."""
    return hotpants_command(
        "hotpants",
        SubtractOptions(hotpants_options=given),
        convolve_science=convolve_science,
        sigmas=(0.6, 1.2, 2.4),
        width=9,
        half=8,
        order=2,
    )


def parsed(words):
    """Options of a command line, as a dict of name to list of values."""
    options, name = {}, None
    for word in words[1:]:
        if word.startswith("-") and not word[1:2].isdigit():
            name = word[1:]
            assert name not in options
            options[name] = []
        else:
            options[name].append(word)
    return options


def test_the_derived_command():
    options = parsed(command())
    assert options["inim"] == ["inim.fits"]
    assert options["outim"] == ["difference.fits"]
    assert options["ng"] == ["3", "6", "0.6", "4", "1.2", "2", "2.4"]
    assert {key: options[key] for key in ("c", "n", "r", "rss", "ko", "bgo", "nsx", "ks")} == {
        "c": ["t"],
        "n": ["i"],
        "r": ["9"],
        "rss": ["8"],
        "ko": ["2"],
        "bgo": ["1"],
        "nsx": ["14"],
        "ks": ["3.0"],
    }
    assert parsed(command(convolve_science=True))["c"] == ["i"]


def test_options_replace_and_join_the_derived_ones():
    given = {"ng": [2, 4, 0.5, 2, 1.5], "c": "i", "-n": "u", "r": 12, "okn": [], "ssf": "none", "ft": 15}
    plain, options = (parsed(command(**o)) for o in ({}, given))
    assert options["ng"] == ["2", "4", "0.5", "2", "1.5"]
    assert (options["c"], options["n"], options["r"], options["ft"], options["okn"]) == (
        ["i"],
        ["u"],
        ["12"],
        ["15"],
        [],
    )
    assert "ssf" not in options
    changed = {"ng", "c", "n", "r", "ssf", "okn", "ft"}
    assert {k: v for k, v in options.items() if k not in changed} == {
        k: v for k, v in plain.items() if k not in changed
    }


def test_a_name_with_a_dash_is_the_same_option():
    given = module._given(SubtractOptions(hotpants_options={"-r": 12, "--ko": 1}))
    assert given == {"r": 12, "ko": 1}
    assert (module._whole(given, "r", 9), module._whole(given, "ko", 2), module._whole(given, "rss", 8)) == (12, 1, 8)


@pytest.mark.parametrize("value", [2.5, "many", "none"])
def test_a_size_must_be_a_whole_number(value):
    with pytest.raises(ConfigError, match=f"subtract.hotpants_options: r: must be a whole number, not {value!r}"):
        module._whole({"r": value}, "r", 9)


def test_the_widths_of_the_gaussians_are_those_on_the_command_line():
    assert module._sigmas(command()) == [0.6, 1.2, 2.4]
    assert module._sigmas(command(ng=[2, 4, 0.5, 2, 1.5])) == [0.5, 1.5]
    assert module._sigmas(command(ng="none")) == []
    with pytest.raises(ConfigError, match="subtract.hotpants_options: ng: must be a list"):
        module._sigmas(command(ng="3 6 0.7 4 1.5 2 3"))


@pytest.mark.parametrize("key", ["inim", "outim", "-tmi"])
def test_files_of_the_workflow_are_not_to_be_named(key):
    named = {key: "mine.fits"}
    with pytest.raises(ConfigError, match=f"subtract.hotpants_options: {key.lstrip('-')}: mine.fits"):
        command(**named)


@pytest.mark.parametrize(
    ("telescope", "own"),
    [
        ("JAST", {"nsx": "20", "nsy": "20", "ko": "0", "bgo": "0"}),
        ("FRAM-CTA-N", {"nsx": "10", "nsy": "10", "ko": "1", "bgo": "1"}),
    ],
)
def test_the_recipe_of_gmadet(telescope, own):
    wanted = GMADET.options(telescope, "subtract").hotpants_options
    options = parsed(command(**wanted))
    assert [float(v) for v in options["ng"]] == [3, 6, 0.7, 4, 1.5, 2, 3]
    recipe = {"c": "t", "n": "i", "r": "10", "rss": "15", "ft": "20", "ssig": "3", "kfm": "0.99", "ks": "2"} | own
    assert {key: " ".join(options[key]) for key in recipe} == recipe


def region(number, *, kind, total, limits="[1:40,1:30]"):
    """The cards of a region as version 5.1.11 writes them: numbers are text."""
    return {
        f"REGION{number:02d}": limits,
        f"CONVOL{number:02d}": kind,
        f"KSUM{number:02d}": total,
        f"SSSIG{number:02d}": "0.3702",
        f"FSIG{number:02d}": "0.7282",
        f"X2NRM{number:02d}": "0.8588",
    }


def write(folder, cards, *, norm="i", regions=1):
    header = fits.Header(cards | {"PHOTNORM": norm, "NREGION": regions, "MASKVAL": 1e-30})
    fits.writeto(folder / "difference.fits", np.full((30, 40), 7, np.float32), header)
    fits.writeto(folder / "noise.fits", np.full((30, 40), 2, np.float32))
    mask = np.zeros((30, 40), np.int32)
    mask[3, 4], mask[5, 6] = 0x8000 | 0x0400, 0x0400
    fits.writeto(folder / "mask.fits", mask)
    return read_hotpants(folder)


@pytest.mark.parametrize(
    ("kind", "norm", "factor"),
    [
        ("TEMPLATE", "i", 1.0),
        ("TEMPLATE", "u", 1.0),
        ("TEMPLATE", "t", 0.5),
        ("IMAGE", "i", 1.0),
        ("IMAGE", "u", 0.5),
        ("IMAGE", "t", 0.5),
    ],
)
def test_its_difference_comes_in_units_of_the_science_image(tmp_path, kind, norm, factor):
    total = "0.5000" if kind == "TEMPLATE" else "2.0000"
    result = write(tmp_path, region(0, kind=kind, total=total), norm=norm)
    assert result.flux_scale == pytest.approx(0.5)
    assert result.convolved == ("reference" if kind == "TEMPLATE" else "science")
    np.testing.assert_allclose(result.diff, 7 * factor)
    np.testing.assert_allclose(result.noise, 2 * factor)
    np.testing.assert_array_equal(np.argwhere(result.unusable), [[3, 4]])
    assert result.record == {"stamp_chi2": 0.7282, "hotpants_chi2": 0.8588}


def test_regions_are_scaled_one_by_one(tmp_path):
    cards = region(0, kind="TEMPLATE", total="0.4000", limits="[1:10,1:30]")
    cards |= region(1, kind="TEMPLATE", total="0.6000", limits="[11:40,1:30]")
    result = write(tmp_path, cards, norm="t", regions=2)
    assert result.flux_scale == pytest.approx(0.5)
    np.testing.assert_allclose(result.diff[:, :10], 7 * 0.4, rtol=1e-6)
    np.testing.assert_allclose(result.diff[:, 10:], 7 * 0.6, rtol=1e-6)


@pytest.mark.parametrize("total", ["0.0000", "-nan", "-1.0000", None])
def test_no_kernel_is_no_flux_scale(tmp_path, total):
    cards = {key: value for key, value in region(0, kind="TEMPLATE", total=total).items() if value is not None}
    assert np.isnan(write(tmp_path, cards).flux_scale)


@pytest.fixture(scope="module")
def pair():
    sky = make_sky(n=200)
    science = observe(sky, seed=2, fwhm=3.2, extra=[(180.3, 141.8, 6000.0)])
    prepared = prepare_image(science, seeing=3.2, options=PrepareOptions(cosmics="none"))
    planes = {"science_data": prepared.sci, "science_noise": prepared.noise, "science_mask": prepared.mask}
    reference = observe(sky, seed=3, fwhm=2.6, factor=2.0)
    aligned = align_reference(reference, **planes, science_wcs=science.wcs, name="science", seeing=3.2)
    return prepared, aligned


@needs_hotpants
@pytest.mark.parametrize("options", [{}, {"n": "t"}, {"c": "i"}, {"c": "i", "n": "t"}, {"ssf": "none", "ko": 1}])
def test_the_real_program_keeps_flux_and_units(pair, options):
    prepared, aligned = pair
    result = subtract_images(
        prepared.sci,
        prepared.noise,
        prepared.mask,
        aligned,
        name="science",
        options=SubtractOptions(
            method="hotpants", hotpants_program=HOTPANTS, hotpants_options=options, max_noise_spread=5
        ),
    )
    assert result.record["method"] == "hotpants"
    assert result.record["convolved"] == ("science" if options.get("c") == "i" else "reference")
    if "ko" in options:
        assert result.record["kernel_order"] == options["ko"]
    assert result.record["flux_scale"] == pytest.approx(0.5, rel=0.03)
    rows, columns = np.indices(prepared.sci.shape)
    aperture = np.hypot(columns - 180.3, rows - 141.8) < 9
    assert result.diff[aperture].sum() == pytest.approx(6000, rel=0.06)
    assert 0.8 < result.record["noise_spread"] < 1.2
    assert result.record["star_residual"] < 0.1


@needs_hotpants
@pytest.mark.parametrize(("fwhm", "fwhm_reference"), [(3.2, 2.4), (2.4, 3.2)])
def test_hotpants_and_ours_agree(fwhm, fwhm_reference):
    sky = make_sky(n=200)
    new = [(180.3, 141.8, 6000.0)]
    science = observe(sky, seed=2, fwhm=fwhm, extra=new)
    reference = observe(sky, seed=3, fwhm=fwhm_reference, factor=2.0)
    ours = difference(science, reference)
    theirs = difference(science, reference, method="hotpants", hotpants_program=HOTPANTS)
    assert theirs.record["flux_scale"] == pytest.approx(ours.record["flux_scale"], rel=0.02)
    both = np.isfinite(ours.diff) & np.isfinite(theirs.diff)
    assert both.mean() > 0.8
    assert np.std((ours.diff - theirs.diff)[both] / ours.noise[both]) < 0.7
    rows, columns = np.indices(sky.shape)
    aperture = np.hypot(columns - 180.3, rows - 141.8) < 8
    assert theirs.diff[aperture].sum() == pytest.approx(6000, rel=0.05)
