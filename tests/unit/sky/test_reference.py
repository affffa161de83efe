"""A stacked reference: deeper than a frame, and free of hot pixels and cosmic rays."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core import io
from otrain_core.errors import ImageError
from otrain_core.images.common_stars import find_stars
from otrain_core.images.frames import Image, read_image
from otrain_core.images.prepare import prepare_image
from otrain_core.plan.pipelines import PrepareOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.sky import reference
from otrain_core.sky.reference import reference_files, stack_reference
from tests.unit.synthetic_pair import GAIN, READ_NOISE, camera, make_sky, observe, turned

SHAPE = (240, 260)
SHIFTS = [(3.0 * k - 12.3, 2.2 * k - 9.1) for k in range(9)]
ANGLES = [0.04 * k for k in range(9)]
HOT = [(120, 130), (60, 200), (33, 47), (180, 90)]  # [y, x] on the detector


@pytest.fixture(scope="module")
def sky():
    return make_sky(shape=SHAPE, n=120)


def frames(sky, *, wcs=True, n=9):
    images = []
    for number in range(n):
        image = observe(
            sky,
            seed=10 + number,
            fwhm=2.4,
            angle=ANGLES[number],
            shift=SHIFTS[number],
            factor=0.9 + 0.02 * number,
            name=f"frame{number}",
            wcs=wcs,
        )
        for y, x in HOT:
            image.data[y, x] += 3000
        images.append(image)
    images[2].data[100:103, 60:90] += 5000  # a trail
    return images


@pytest.fixture(scope="module")
def images(sky):
    return frames(sky)


@pytest.fixture(scope="module")
def stack(images):
    return stack_reference(images, field="north")


def test_every_frame_is_used_with_its_flux_scale(stack):
    assert stack.record["n_frames"] == stack.header["NCOMBINE"] == 9
    assert stack.record["left_out"] == []
    scales = [frame["flux_scale"] for frame in stack.record["frames"]]
    np.testing.assert_allclose(scales, 0.98 / (0.9 + 0.02 * np.arange(9)), rtol=0.01)


def test_the_stack_is_deeper_than_a_frame(images, stack):
    one = prepare_image(images[4], seeing=2.5, options=PrepareOptions(cosmics="none"))
    image = Image("stack", stack.data, stack.header, gain=stack.header["GAIN"], read_noise=stack.header["RDNOISE"])
    many = prepare_image(image, seeing=2.5, options=PrepareOptions(cosmics="none"))
    # Nine frames, a little smoothing by the interpolation, fewer frames near the edges.
    assert np.nanmedian(many.noise) == pytest.approx(np.nanmedian(one.noise) / 3, rel=0.3)
    assert stack.header["GAIN"] == pytest.approx(9 * GAIN, rel=0.15)
    assert stack.header["RDNOISE"] == pytest.approx(3 * READ_NOISE, rel=0.15)


def test_hot_pixels_and_trails_are_gone(sky, images, stack):
    truth = observe(sky, seed=0, fwhm=2.4, angle=ANGLES[4], shift=SHIFTS[4], factor=0.98, noise=False, level=0)
    x0, y0 = (round(stack.header[k] - images[4].header[k]) for k in ("CRPIX1", "CRPIX2"))
    here = stack.data[y0 : y0 + SHAPE[0], x0 : x0 + SHAPE[1]]
    error = here - truth.data
    background = truth.data < 5
    assert np.isfinite(here).mean() > 0.97
    assert np.nanmax(np.abs(error[background])) < 60  # the hot pixels have 3000, the trail 5000
    assert abs(np.nanmedian(error[background])) < 1


def test_the_grid_holds_all_frames_and_its_wcs_is_right(sky, stack):
    wcs = WCS(stack.header)
    assert stack.data.shape[0] > SHAPE[0]
    assert stack.data.shape[1] > SHAPE[1]
    prepared = prepare_image(
        Image("stack", stack.data, stack.header), seeing=2.5, options=PrepareOptions(cosmics="none")
    )
    stars = find_stars(prepared.sci, prepared.noise, prepared.mask, threshold=50)
    x, y = turned(sky)
    there = np.column_stack(wcs.all_world2pix(*WCS(camera(sky)).all_pix2world(x, y, 0), 0))
    distance = np.hypot(*(stars[["x", "y"]].to_numpy()[:, None] - there[None]).transpose(2, 0, 1)).min(axis=1)
    assert len(stars) > 25
    assert np.median(distance) < 0.05


def test_frames_without_wcs_are_stacked_on_their_stars(sky):
    stack = stack_reference(frames(sky, wcs=False, n=5), field="north")
    assert stack.record["n_frames"] == 5
    assert "CTYPE1" not in stack.header
    assert np.isfinite(stack.data).mean() > 0.7


def test_a_frame_of_another_field_is_left_out(sky, images):
    other = observe(make_sky(shape=SHAPE, n=120, seed=77), seed=1, fwhm=2.4, wcs=False, name="elsewhere")
    stack = stack_reference([*images[:4], other], field="north")
    assert [frame["frame"] for frame in stack.record["left_out"]] == ["elsewhere"]
    assert stack.record["n_frames"] == 4


def test_saturated_stars_reach_the_saturation_of_the_header(sky):
    images = [
        observe(sky, seed=i, fwhm=2.4, shift=(0.3 * i, 0.2 * i), saturation=5000.0, name=str(i)) for i in range(5)
    ]
    stack = stack_reference(images, field="north")
    full = images[2].data >= 5000
    x0, y0 = (round(stack.header[k] - images[2].header[k]) for k in ("CRPIX1", "CRPIX2"))
    here = stack.data[y0 : y0 + SHAPE[0], x0 : x0 + SHAPE[1]]
    assert full.sum() > 20
    assert (here[full] >= 0.9 * stack.header["SATURATE"]).mean() > 0.95


def test_the_same_frames_give_the_same_bytes(images, stack):
    assert stack_reference(images, field="north").data.tobytes() == stack.data.tobytes()


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_frames_are_refused(images, n):
    with pytest.raises(ImageError, match=f"image north: reference: at least 3 reference frames are needed, found {n}"):
        stack_reference(images[:n], field="north")


def test_frames_that_do_not_match_are_refused(sky, images):
    others = [observe(make_sky(shape=SHAPE, seed=s), seed=s, wcs=False, name=str(s)) for s in (5, 6)]
    with pytest.raises(ImageError, match="image north: reference: only 1 of 3 reference frames could be aligned"):
        stack_reference([others[0], images[0], others[1]], field="north")


def test_reference_files_leaves_out_a_frame_it_cannot_read(images, tmp_path):
    paths = []
    for image in images[:4]:
        paths.append(tmp_path / f"{image.name}.fits")
        fits.writeto(paths[-1], image.data, image.header)
    (tmp_path / "broken.fits").write_bytes(b"no image at all")
    paths.append(tmp_path / "broken.fits")
    reference_files(
        frames=paths,
        wcs=[None] * 5,
        reference=tmp_path / "reference.fits",
        record=tmp_path / "reference.json",
        detector=Detector(gain=GAIN, read_noise=READ_NOISE, saturation=60000.0),
        field="north",
    )
    image = read_image(tmp_path / "reference.fits", name="north")
    record = io.read_json(tmp_path / "reference.json")
    assert image.wcs is not None
    assert np.isfinite(image.data).mean() > 0.7
    assert record["n_frames"] == 4
    assert [frame["frame"] for frame in record["left_out"]] == ["broken"]


def test_a_broken_frame_in_the_middle_is_not_the_anchor(sky):
    images = frames(sky, n=7)
    images[3].data[:] = 100.0  # constant: neither noise nor stars
    images[1].data[::2] = np.nan
    stack = stack_reference(images, field="north")
    assert stack.record["anchor"] != "frame3"
    assert "frame3" in [frame["frame"] for frame in stack.record["left_out"]]
    assert stack.record["n_frames"] >= 5
    assert np.isfinite(stack.data).mean() > 0.7


def test_a_frame_of_another_field_in_the_middle_is_not_the_anchor(sky, images):
    other = observe(make_sky(shape=SHAPE, n=120, seed=77), seed=1, fwhm=2.4, wcs=False, name="elsewhere")
    stack = stack_reference([*images[:3], other, *images[3:6]], field="north")
    assert stack.record["n_frames"] == 6
    assert [frame["frame"] for frame in stack.record["left_out"]] == ["elsewhere"]


def test_an_unexpected_error_leaves_out_one_frame_only(images, monkeypatch):
    align = reference.align_reference

    def fails(frame, **arguments):
        if frame.name == "frame1":
            raise np.linalg.LinAlgError("Singular matrix")
        return align(frame, **arguments)

    monkeypatch.setattr(reference, "align_reference", fails)
    stack = stack_reference(images[:5], field="north")
    assert stack.record["n_frames"] == 4
    assert stack.record["left_out"] == [{"frame": "frame1", "reason": "LinAlgError: Singular matrix"}]
