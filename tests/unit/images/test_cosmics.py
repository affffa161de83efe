"""L.A.Cosmic restricted to pixels that may be hits, compared with astroscrappy, which filters the whole image."""

import numpy as np
import pytest

from otrain_core.images.cosmics import cosmic_rays, star_like, star_templates
from tests.unit.synthetic_field import field

INNER = (slice(9, -9), slice(9, -9))  # astroscrappy does not filter the border


def tracks(image, rng, n):
    """The image with hits of one to seven pixels."""
    for _ in range(n):
        y, x, angle, length = *rng.uniform(12, 370, 2), rng.uniform(0, np.pi), rng.uniform(0, 6)
        steps = np.arange(0, length + 0.1, 0.5)
        rows, columns = (y + steps * np.sin(angle)).astype(int), (x + steps * np.cos(angle)).astype(int)
        image[rows, columns] += np.float32(rng.uniform(100, 5000))
    return image


@pytest.mark.parametrize("iterations", [1, 2, 4])
@pytest.mark.parametrize("fwhm", [1.5, 3.0])
def test_the_masks_are_those_of_astroscrappy(fwhm, iterations):
    import astroscrappy

    image, *_ = field(fwhm=fwhm, n=250, logflux=(2.7, 5.0), seed=8)
    sky = np.median(image.data)
    residual = tracks((image.data - sky).astype(np.float32), np.random.default_rng(2), 200)
    rms = np.full(residual.shape, 1.4826 * np.median(np.abs(residual)), np.float32)
    variance = rms**2 + np.maximum(residual, 0) / np.float32(image.gain)
    excluded = np.zeros(residual.shape, bool)
    excluded[100:140, 200:230] = True
    theirs, _ = astroscrappy.detect_cosmics(
        residual, inmask=excluded, invar=variance, sigclip=6.0, objlim=5.0, gain=1.0, readnoise=1.0, satlevel=1e9,
        sepmed=True, fsmode="median", cleantype="medmask", niter=iterations,
    )  # fmt: skip
    ours = cosmic_rays(residual, variance, rms, excluded, sigclip=6.0, objlim=5.0, iterations=iterations)
    ours, theirs = ours[INNER], (theirs & ~excluded)[INNER]
    assert theirs.sum() > 500
    assert (ours != theirs).sum() <= 0.01 * theirs.sum()


def test_hits_at_the_border_are_found_and_the_image_is_left_alone():
    rng = np.random.default_rng(1)
    residual = rng.normal(0, 5, (60, 70)).astype(np.float32)
    for place in ((0, 0), (0, 30), (59, 69), (30, 69)):
        residual[place] = 900
    residual[20, 20] = 900
    before, rms, excluded = residual.copy(), np.full(residual.shape, 5, np.float32), np.zeros(residual.shape, bool)
    excluded[20, 20] = True
    hit = cosmic_rays(residual, rms**2, rms, excluded, sigclip=6.0, objlim=5.0, iterations=2)
    assert hit[0, 0] and hit[0, 30] and hit[59, 69] and hit[30, 69]
    assert hit.sum() <= 6 and not hit[20, 20]
    np.testing.assert_array_equal(residual, before)


def test_an_image_without_hits_has_none():
    residual = np.random.default_rng(1).normal(0, 5, (64, 64)).astype(np.float32)
    rms, none = np.full(residual.shape, 5, np.float32), np.zeros(residual.shape, bool)
    assert not cosmic_rays(residual, rms**2, rms, none, sigclip=6.0, objlim=5.0, iterations=2).any()


def test_star_templates_follow_the_trailing():
    """A trailed undersampled star is recognised by the template of its shape; the track of a particle is not."""
    y, x = np.mgrid[:41, :41]
    angle = np.radians(30)
    along, across = (x - 20.3) * np.cos(angle) + (y - 19.8) * np.sin(angle), None
    across = (y - 19.8) * np.cos(angle) - (x - 20.3) * np.sin(angle)
    trailed = 2000 * np.exp(-((along / 1.4) ** 2 + (across / 0.55) ** 2) / 2)
    track = np.zeros((41, 41))
    track[20, 17:24] = 1500.0
    rms = np.full((41, 41), 3.0)
    seeing, ellipticity = 2.355 * np.sqrt(1.4 * 0.55), 1 - 0.55 / 1.4
    right, round_ = star_templates(seeing, ellipticity, 30.0), star_templates(seeing)
    peak = np.array([np.unravel_index(trailed.argmax(), trailed.shape)])
    assert star_like(trailed, rms, peak, templates=right, gain=1.5)[0]
    assert not star_like(trailed, rms, peak, templates=round_, gain=1.5)[0]
    assert not star_like(track, rms, np.array([[20, 20]]), templates=round_, gain=1.5)[0]
    single = np.zeros((41, 41))
    single[20, 20] = 1500.0
    assert not star_like(single, rms, np.array([[20, 20]]), templates=star_templates(1.3), gain=1.5)[0]
