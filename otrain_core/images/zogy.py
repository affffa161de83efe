"""Proper subtraction (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27) by STDPipe."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import fft, ndimage

from otrain_core.errors import ImageError
from otrain_core.images.backends import Inputs, Matched
from otrain_core.images.common_stars import alike_stars, stars_flux_scale
from otrain_core.plan.pipelines import SubtractOptions

MAX_MASKED = 0.1  # largest masked fraction of the core of a PSF star


def star_psf(
    image: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, half: int, max_stars: int = 100
) -> np.ndarray:
    """Median PSF of bright stars, centred on its middle pixel.

    Parameters
    ----------
    image : numpy.ndarray
        (height, width), background subtracted, without NaN.
    bad : numpy.ndarray
        bool (height, width), pixels not to use.
    x, y : numpy.ndarray
        Positions of the stars [px], the brightest first.
    half : int
        Half width of the PSF [px].
    max_stars : int

    Returns
    -------
    numpy.ndarray
        float64 (2 half + 1, 2 half + 1), with sum 1; 0 beyond the radius `half`.

    Raises
    ------
    ValueError
        No star has a centre (5 x 5 px) without masked pixels and at most `MAX_MASKED` of its core (radius ``half / 2``)
        masked.
    """
    stamps = []
    core = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1]) <= half / 2
    for xi, yi in zip(x, y, strict=True):
        column, row = round(xi), round(yi)
        inside = half + 1 <= row < image.shape[0] - half - 1 and half + 1 <= column < image.shape[1] - half - 1
        if not inside or bad[row - 2 : row + 3, column - 2 : column + 3].any():
            continue
        area = slice(row - half - 1, row + half + 2), slice(column - half - 1, column + half + 2)
        masked = ndimage.binary_dilation(bad[area])[1:-1, 1:-1]
        if masked[core].mean() > MAX_MASKED:
            continue
        stamp = ndimage.shift(image[area].astype(float), (row - yi, column - xi), order=3, mode="nearest")[1:-1, 1:-1]
        total = stamp[core].sum()
        if total > 0:
            stamps.append(np.where(masked, np.nan, stamp / total))
        if len(stamps) == max_stars:
            break
    if not stamps:
        raise ValueError("no star is free of masked pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a pixel that is masked for every star is set to 0
        psf = np.nan_to_num(np.nanmedian(stamps, axis=0))
    offset = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    psf = np.where(offset <= half, np.maximum(psf, 0), 0)
    return psf / psf.sum()


def zogy(inputs: Inputs, options: SubtractOptions) -> Matched:
    """Subtract by the proper difference of Zackay, Ofek & Gal-Yam (2016, ApJ 830, 27) in STDPipe.

    Each image has one PSF for the whole field, measured on at most `max_stamps` stars; the
    other options of the kernel are not used. The PSF of the difference is neither of the two PSFs.

    Raises
    ------
    ImageError
        There is no star to measure a PSF on.
    """
    from stdpipe.subtraction import run_zogy

    stars = alike_stars(inputs.stars)
    ratio = stars_flux_scale(stars)
    bad = inputs.bad_science | inputs.bad_reference
    half = int(np.ceil(4 * max(inputs.seeing, inputs.seeing_reference)))
    try:
        psf, psf_reference = [
            star_psf(image, bad, stars["x"].to_numpy(), stars["y"].to_numpy(), half=half, max_stars=options.max_stamps)
            for image in (inputs.science, inputs.reference)
        ]
    except ValueError as error:
        raise ImageError(inputs.name, "subtract", f"no PSF for ZOGY: {error}") from None
    # STDPipe shifts the PSF wrongly by one pixel in images of odd size: pad them to an even size.
    height, width = inputs.science.shape
    pad = ((0, height % 2), (0, width % 2))
    science, noise, reference, noise_reference = [
        np.pad(a, pad, mode="edge") for a in (inputs.science, inputs.noise, inputs.reference, inputs.reference_noise)
    ]
    masks = [np.pad(a, pad, constant_values=True) for a in (inputs.bad_science, inputs.bad_reference)]
    result = run_zogy(
        science,
        reference,
        mask=masks[0],
        template_mask=masks[1],
        err=noise.copy(),
        template_err=noise_reference.copy(),
        image_psf=_stdpipe_psf(psf, inputs.seeing),
        template_psf=_stdpipe_psf(psf_reference, inputs.seeing_reference),
        scale=1 / ratio,
        fit_scale=False,
        fit_shift=False,
        nthreads=1,
    )
    responses = _responses(noise, noise_reference, psf, psf_reference, 1 / ratio)
    # The interpolation correlated the noise of the reference, which changes its variance after the response.
    noise_reference *= np.sqrt(np.float32(_correlated(responses[1], inputs.smoothing)))
    sigma = _zogy_noise([noise, noise_reference], responses)
    cut = slice(0, height), slice(0, width)
    reach = np.ones((3, 3), dtype=bool)
    record = {"convolved": "both", "flux_scale": ratio, "n_stamps": min(len(stars), options.max_stamps)}
    return Matched(
        result[0][cut].astype(np.float32),
        sigma[cut].astype(np.float32),
        ndimage.binary_dilation(inputs.bad_reference, reach),
        ndimage.binary_dilation(inputs.bad_science, reach),
        record,
        _centre(responses[0], half)[None],
    )


def _stdpipe_psf(psf: np.ndarray, fwhm: float) -> dict:
    """A constant PSF in the form of STDPipe."""
    size = psf.shape[0]
    return {
        "data": psf[None],
        "width": size,
        "height": size,
        "fwhm": fwhm,
        "sampling": 1.0,
        "degree": 0,
        "ncoeffs": 1,
        "x0": 0.0,
        "y0": 0.0,
        "sx": 1.0,
        "sy": 1.0,
    }


def _responses(
    noise: np.ndarray, noise_reference: np.ndarray, psf: np.ndarray, psf_reference: np.ndarray, scale: float
) -> list[np.ndarray]:
    """Kernels by which the proper difference convolves the science image and the reference (Eqs. 13-15).

    They have the shape of the images and are centred on the first pixel.
    """
    shape = noise.shape
    transforms = []
    for kernel in (psf, psf_reference):
        plane = np.zeros(shape, dtype=np.float32)
        half = kernel.shape[0] // 2
        plane[: kernel.shape[0], : kernel.shape[1]] = kernel
        transforms.append(fft.rfft2(np.roll(plane, (-half, -half), axis=(0, 1))))
    sky, sky_reference = np.median(noise), np.median(noise_reference)
    weight = np.sqrt(
        (sky * scale * np.abs(transforms[1])) ** 2 + (sky_reference * np.abs(transforms[0])) ** 2
    ) / np.sqrt((sky * scale) ** 2 + sky_reference**2)
    weight = np.maximum(weight, 1e-6 * weight.max())
    # D / F_D with F_D = scale / sqrt(...): the weight contains the square root, and one factor `scale` remains.
    return [fft.irfft2(transform / weight / scale, shape) for transform in (scale * transforms[1], transforms[0])]


def _correlated(response: np.ndarray, smoothing: np.ndarray) -> float:
    """Variance of unit noise with this autocorrelation after the response, over that of white unit noise."""
    power = fft.irfft2(np.abs(fft.rfft2(response)) ** 2, response.shape)
    half = smoothing.shape[0] // 2
    lags = np.arange(-half, half + 1)
    return max(float((smoothing * power[np.ix_(lags, lags)]).sum() / power[0, 0]), 0.0)


def _zogy_noise(planes: list[np.ndarray], responses: list[np.ndarray]) -> np.ndarray:
    """Noise of the proper difference: the variances of both images convolved with the squared responses."""
    total = np.zeros(planes[0].shape, dtype=np.float32)
    for sigma, response in zip(planes, responses, strict=True):
        total += fft.irfft2(fft.rfft2(sigma**2) * fft.rfft2(response**2), total.shape)
    return np.sqrt(np.maximum(total, 1e-12))


def _centre(response: np.ndarray, half: int) -> np.ndarray:
    """The central (2 half + 1, 2 half + 1) pixels of a response as a kernel of sum 1."""
    middle = np.roll(response, (half, half), axis=(0, 1))[: 2 * half + 1, : 2 * half + 1]
    return (middle / middle.sum()).astype(np.float32)
