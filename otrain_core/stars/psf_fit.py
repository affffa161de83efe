"""Fit an effective PSF that varies over the field to the stars of an image.

The method is described in `otrain_core.stars.psf`, which selects the stars and uses the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from otrain_core.images.frames import Image
from otrain_core.images.polynomials import exponents, polynomial
from otrain_core.widths import FWHM_PER_SIGMA, mad_sigma, moffat_alpha

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_NODES, _WEIGHTS = _NODES / 2, _WEIGHTS / 2  # for the integral over one pixel
_NUDGE = 0.02  # step of numerical derivatives [px]


@dataclass
class Stars:
    """PSF stars, the brightest first, and the image that contains them.

    Attributes
    ----------
    x, y, flux : numpy.ndarray
        (stars,) [px], [px], [ADU].
    half_light : float
        Half-light radius of the stellar locus [px].
    data : numpy.ndarray
        float32 (height, width), background-subtracted [ADU].
    missing : numpy.ndarray
        bool (height, width), pixels without a value.
    segments : numpy.ndarray
        int (height, width), number of the source that a pixel belongs to (0: none).
    labels : numpy.ndarray
        int (stars,), numbers of the stars in `segments`.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    half_light: float
    data: np.ndarray
    missing: np.ndarray
    segments: np.ndarray
    labels: np.ndarray


def _moffat(shape: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Pixel-integrated elliptical Moffat profile of flux 1, (stars, rows, columns).

    Parameters
    ----------
    shape : numpy.ndarray
        (4,), log FWHM [px], e1, e2, log beta.
    dx, dy : numpy.ndarray
        Offsets of pixel centres from the star, (stars, columns) and (stars, rows) [px].
    """
    fwhm, e1, e2, beta = np.exp(shape[0]), shape[1], shape[2], np.exp(shape[3])
    alpha2 = moffat_alpha(fwhm, beta) ** 2 * np.sqrt(1 - e1**2 - e2**2)
    total = np.zeros((dx.shape[0], dy.shape[1], dx.shape[1]))
    for node_y, weight_y in zip(_NODES, _WEIGHTS, strict=True):
        v = (dy + node_y)[:, :, None]
        for node_x, weight_x in zip(_NODES, _WEIGHTS, strict=True):
            u = (dx + node_x)[:, None, :]
            r2 = ((1 - e1) * u**2 + (1 + e1) * v**2 - 2 * e2 * u * v) / alpha2
            total += weight_x * weight_y * np.exp(-beta * np.log1p(r2))
    return total * (beta - 1) / (np.pi * alpha2) * np.sqrt(1 - e1**2 - e2**2)


def _bsplines(offset: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Values (..., nodes) at the offsets of the cubic B-splines centred on equidistant nodes."""
    u = np.clip((offset - nodes[0]) / (nodes[1] - nodes[0]), -2, nodes.size + 1)
    first = np.floor(u).astype(int)
    f = u - first
    g = 1 - f
    four = np.stack([g**3, 4 - 6 * f**2 + 3 * f**3, 4 - 6 * g**2 + 3 * g**3, f**3], axis=-1) / 6
    values = np.zeros((*offset.shape, nodes.size + 8))
    np.put_along_axis(values, first[..., None] + np.arange(3, 7), four, axis=-1)
    return values[..., 4:-4]


class _Fit:
    """Stamps of stars, and the parameters fitted to each star: flux, position and sky."""

    def __init__(self, stars: Stars, image: Image, rms: float, half_width: int):
        self.centre_x = np.floor(stars.x + 0.5).astype(int)
        self.centre_y = np.floor(stars.y + 0.5).astype(int)
        inside = (
            (self.centre_x >= half_width)
            & (self.centre_x < image.shape[1] - half_width)
            & (self.centre_y >= half_width)
            & (self.centre_y < image.shape[0] - half_width)
        )
        self.centre_x, self.centre_y = self.centre_x[inside], self.centre_y[inside]
        self.grid = np.arange(-half_width, half_width + 1.0)
        rows = (self.centre_y[:, None] + self.grid.astype(int))[:, :, None]
        columns = (self.centre_x[:, None] + self.grid.astype(int))[:, None, :]
        self.data = stars.data[rows, columns].astype(np.float64)
        segments = stars.segments[rows, columns]
        others = (segments > 0) & (segments != stars.labels[inside][:, None, None])
        others = ndimage.maximum_filter(others, size=(1, 3, 3))
        self.valid = ~stars.missing[rows, columns] & ~others
        self.x = stars.x[inside] - self.centre_x
        self.y = stars.y[inside] - self.centre_y
        self.flux = stars.flux[inside].astype(np.float64)
        self.sky = np.zeros_like(self.flux)
        self.rms, self.gain = rms, image.gain

    def take(self, keep: np.ndarray) -> _Fit:
        """The same fit with some of the stars only."""
        other = object.__new__(_Fit)
        other.__dict__.update(self.__dict__)
        for name in ("centre_x", "centre_y", "data", "valid", "x", "y", "flux", "sky"):
            setattr(other, name, getattr(self, name)[keep])
        return other

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the columns and rows of each stamp from its star, (stars, columns) and (stars, rows) [px]."""
        return self.grid - self.x[:, None], self.grid - self.y[:, None]

    def model(self, profile: np.ndarray) -> np.ndarray:
        """Model of the stamps (stars, rows, columns) [ADU] for profiles of flux 1."""
        return self.flux[:, None, None] * profile + self.sky[:, None, None]

    def root_weight(self, profile: np.ndarray) -> np.ndarray:
        """Square root of the weights of the pixels, lowered for outliers (cosmic rays, faint neighbours).

        The variance includes 1 % of the model, so that the brightest stars do not dominate the fit.
        """
        signal = np.maximum(self.flux[:, None, None] * profile, 0)
        sigma = np.sqrt(self.rms**2 + signal / self.gain + (0.01 * signal) ** 2)
        pull = (self.data - self.model(profile)) / (sigma + 0.05 * signal)
        return self.valid / sigma / np.sqrt(1 + (pull / 4) ** 4)

    def local(self, profile: np.ndarray, gradient: tuple[np.ndarray, np.ndarray], weight: np.ndarray):
        """QR decomposition of the weighted design matrix (stars, pixels + 1, 4) of flux, x, y and sky."""
        flux = self.flux[:, None, None]
        columns = [profile, flux * gradient[0], flux * gradient[1], np.ones_like(profile)]
        # One more row is a prior that keeps the sky of a star near 0; otherwise it is degenerate with the wings.
        design = np.stack([(c * weight).reshape(len(self.x), -1) for c in columns], axis=-1)
        prior = np.zeros((len(self.x), 1, 4))
        prior[:, 0, 3] = 1 / (0.2 * self.rms)
        return np.linalg.qr(np.concatenate([design, prior], axis=1))

    def residual(self, profile: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weighted residuals (stars, pixels + 1), with the row of the prior of the sky."""
        flat = ((self.data - self.model(profile)) * weight).reshape(len(self.x), -1)
        return np.concatenate([flat, -self.sky[:, None] / (0.2 * self.rms)], axis=1)

    def update(self, basis: np.ndarray, triangle: np.ndarray, residual: np.ndarray) -> None:
        """Gauss-Newton step of flux, position and sky; a position moves by at most half a pixel."""
        projected = np.einsum("spk,sp->sk", basis, residual)
        ridge = triangle + 1e-9 * np.abs(triangle).max(axis=(1, 2), keepdims=True) * np.eye(4)
        step = np.linalg.solve(ridge, projected[..., None])[..., 0]
        self.flux = np.maximum(self.flux + step[:, 0], 0.1 * self.flux)
        self.x = np.clip(self.x + np.clip(step[:, 1], -0.5, 0.5), -1.5, 1.5)
        self.y = np.clip(self.y + np.clip(step[:, 2], -0.5, 0.5), -1.5, 1.5)
        self.sky = self.sky + step[:, 3]


def _around(evaluate, dx: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Profiles at the offsets, and with the star moved by +-`_NUDGE` along x, then along y."""
    moves = (0, 0), (-_NUDGE, 0), (_NUDGE, 0), (0, -_NUDGE), (0, _NUDGE)
    return [evaluate(dx + along_x, dy + along_y) for along_x, along_y in moves]


def _gradient(profiles: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives with respect to the position of the star, from the profiles of `_around`."""
    _, left, right, below, above = profiles
    return (left - right) / (2 * _NUDGE), (below - above) / (2 * _NUDGE)


def _fit_moffat(fit: _Fit, half_light: float, *, iterations: int = 8) -> np.ndarray:
    """Fit the shape of the Moffat profile common to all stars, together with their fluxes, positions and sky."""
    shape = np.array([np.log(max(1.7 * half_light, 1.0)), 0.0, 0.0, np.log(3.0)])
    lower = np.array([np.log(0.6), -0.6, -0.6, np.log(1.3)])
    upper = np.array([np.log(6 * half_light + 2), 0.6, 0.6, np.log(12.0)])
    for _ in range(iterations):
        dx, dy = fit.offsets()
        profiles = _around(partial(_moffat, shape), dx, dy)
        profile = profiles[0]
        weight = fit.root_weight(profile)
        basis, triangle = fit.local(profile, _gradient(profiles), weight)
        residual = fit.residual(profile, weight)
        columns = []
        for k, nudge in enumerate((0.01, 0.01, 0.01, 0.02)):
            moved = shape.copy()
            moved[k] += nudge
            change = (_moffat(moved, dx, dy) - profile) / nudge * fit.flux[:, None, None] * weight
            change = np.pad(change.reshape(len(fit.x), -1), ((0, 0), (0, 1)))
            columns.append(change)
        design = np.stack(columns, axis=-1)
        free = design - basis @ (np.swapaxes(basis, 1, 2) @ design)
        left = residual - np.einsum("spk,sk->sp", basis, np.einsum("spk,sp->sk", basis, residual))
        normal = np.einsum("spk,spl->kl", free, free)
        step = np.linalg.solve(
            normal + 1e-3 * np.diag(np.diag(normal)) + 1e-9 * np.eye(4), free.reshape(-1, 4).T @ left.ravel()
        )
        step = np.clip(step, -0.3, 0.3)
        shape = np.clip(shape + step, lower, upper)
        fit.update(basis, triangle, residual - design @ step)
        if np.abs(step).max() < 2e-3:
            break
    return shape


class _Splines:
    """Tensor products of cubic B-splines around every star, with coefficients that are polynomials of the position.

    Parameters
    ----------
    nodes : numpy.ndarray
        (nodes,), offsets from the star [px].
    terms : numpy.ndarray
        (stars, terms), monomials of the positions.
    prior : numpy.ndarray
        (terms, nodes, nodes), standard deviation of the Gaussian prior of every coefficient.
    fixed : numpy.ndarray
        (functions, nodes, nodes), values at the nodes of functions to which the coefficients are kept
        orthogonal, because the flux and position of a star already describe them.
    """

    def __init__(self, nodes: np.ndarray, terms: np.ndarray, prior: np.ndarray, fixed: np.ndarray):
        self.nodes, self.terms, self.prior = nodes, terms, prior
        self.coefficients = np.zeros_like(prior)
        interpolate = np.linalg.inv(_bsplines(nodes, nodes))
        flat = (interpolate @ fixed @ interpolate.T).reshape(len(fixed), -1)
        self.closed = [np.linalg.qr((flat / plane.ravel()).T)[0] for plane in prior]

    def _open(self, z: np.ndarray) -> np.ndarray:
        """Project out the `fixed` functions."""
        flat = z.reshape(len(z), -1)
        flat = np.stack([plane - q @ (q.T @ plane) for plane, q in zip(flat, self.closed, strict=True)])
        return flat.reshape(z.shape)

    def evaluate(self, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Values (stars, rows, columns) at the offsets (stars, columns) and (stars, rows) [px]."""
        planes = np.tensordot(self.terms, self.coefficients, axes=1)
        return _bsplines(dy, self.nodes) @ planes @ np.swapaxes(_bsplines(dx, self.nodes), 1, 2)

    def solve(self, fit: _Fit, weight, basis, residual, *, iterations: int) -> None:
        """Improve the coefficients to the maximum of the posterior probability.

        Conjugate gradients are used, in units of the width of the prior, so that the normal
        matrix is not needed: the pixels of a star are on a grid, and its design matrix is a
        product of two small matrices. Flux, position and sky of every star are projected out.
        """
        dx, dy = fit.offsets()
        bx, by = _bsplines(dx, self.nodes), _bsplines(dy, self.nodes)
        bxt, byt = np.swapaxes(bx, 1, 2), np.swapaxes(by, 1, 2)
        scale = fit.flux[:, None, None] * weight
        n, (rows, columns) = len(fit.x), fit.data.shape[1:]
        prior = self.prior

        def project(vector, basis):
            return vector - (basis @ (np.swapaxes(basis, 1, 2) @ vector[..., None]))[..., 0]

        def adjoint(projected):
            pixels = projected.reshape(n, rows, columns) * scale
            return self._open(prior * np.tensordot(self.terms.T, byt @ pixels @ bx, axes=1))

        own = np.ascontiguousarray(basis[:, :-1])  # the row of the prior of the sky does not depend on the profile

        def normal(z):
            pixels = (by @ np.tensordot(self.terms, prior * z, axes=1) @ bxt) * scale
            return adjoint(project(pixels.reshape(n, -1), own))

        start = self.coefficients / prior
        z = np.zeros_like(prior)
        r = adjoint(project(residual, basis)[:, :-1]) - start
        p, rr = r.copy(), float((r * r).sum())
        first = rr
        for _ in range(iterations):
            ap = normal(p) + p
            step = rr / float((p * ap).sum())
            z += step * p
            r -= step * ap
            new = float((r * r).sum())
            if new < 1e-8 * first:
                break
            p, rr = r + new / rr * p, new
        self.coefficients = self.coefficients + prior * z


def fit_stars(stars: Stars, image: Image, rms: float, degree: int, min_stars: int):
    """Fit the effective PSF of an image.

    Parameters
    ----------
    stars : Stars
    image : Image
    rms : float
        Noise of the sky [ADU].
    degree : int
        Highest degree of the variation over the field.
    min_stars : int
        Least number of stars.

    Returns
    -------
    table : numpy.ndarray
        float64 (terms, side, side), see `otrain_core.stars.psf_model.PSFModel`.
    oversampling : int
    n_stars : int
        Number of stars with acceptable residuals. With fewer than `min_stars`, the table is all 0.
    degree : int
        Degree used.
    residual : float
        Median over the stars of |data - model| summed over the core, divided by the flux.
    """
    fwhm = max(1.7 * stars.half_light, 1.2)
    half_width = int(np.clip(np.ceil(3.0 * fwhm), 5, 25))
    fit = _Fit(stars, image, rms, half_width)
    if len(fit.x) < min_stars:
        return np.zeros((1, 3, 3)), 1, len(fit.x), 0, np.nan
    shape = _fit_moffat(fit.take(np.arange(len(fit.x)) < 40), stars.half_light)
    fwhm = float(np.exp(shape[0]))

    base = partial(_moffat, shape)
    for _ in range(3):
        _step(fit, _around(base, *fit.offsets()))
    fit = fit.take(_consistent(fit, base(*fit.offsets())))
    if len(fit.x) < min_stars:
        return np.zeros((1, 3, 3)), 1, len(fit.x), 0, np.nan
    while degree > 0 and len(fit.x) < 4 * len(exponents(degree)):
        degree -= 1
    spacing = max(0.5, fwhm / 4)
    reach = int(np.ceil(min(2.5 * fwhm + 1, half_width) / spacing))
    nodes = spacing * np.arange(-reach, reach + 1.0)
    at_nodes = base(nodes[None], nodes[None])[0]
    # The prior gets narrower outwards, because the noise there would add up to a spurious flux.
    halo = np.sqrt(at_nodes * at_nodes.max())
    wide, narrow = 0.3 * at_nodes + 0.02 * halo, 0.1 * at_nodes + 0.005 * halo
    splines = _Splines(
        nodes,
        polynomial(fit.centre_x, fit.centre_y, image.shape, degree, axis=-1),
        prior=np.stack([wide] + [narrow] * (len(exponents(degree)) - 1)),
        fixed=np.stack([at_nodes, *(plane[0] for plane in _gradient(_around(base, nodes[None], nodes[None])))]),
    )

    def whole(dx, dy):
        return base(dx, dy) + splines.evaluate(dx, dy)

    for turn in range(3):
        dx, dy = fit.offsets()
        fixed = _around(base, dx, dy)
        profiles = [one + other for one, other in zip(fixed, _around(splines.evaluate, dx, dy), strict=True)]
        weight = fit.root_weight(profiles[0])
        basis, _ = fit.local(profiles[0], _gradient(profiles), weight)
        splines.solve(fit, weight, basis, fit.residual(profiles[0], weight), iterations=40)
        _step(fit, [one + other for one, other in zip(fixed, _around(splines.evaluate, dx, dy), strict=True)])
        if turn == 0:
            keep = _consistent(fit, whole(*fit.offsets()))
            fit = fit.take(keep)
            splines.terms = splines.terms[keep]
            if len(fit.x) < min_stars:
                return np.zeros((1, 3, 3)), 1, len(fit.x), 0, np.nan
    residual = _core_misfit(fit, whole(*fit.offsets()), fwhm)
    oversampling = int(np.clip(np.ceil(8 / fwhm), 1, 6))
    return _tabulate(base, splines, shape, oversampling), oversampling, len(fit.x), degree, residual


def misfit(stars: Stars, image: Image, rms: float, profile_at, fwhm: float, *, max_stars: int = 100) -> float:
    """Residual of the stars for a PSF model from another program; flux, position and sky of the stars are fitted.

    Parameters
    ----------
    stars : Stars
    image : Image
    rms : float
        Noise of the sky [ADU].
    profile_at : callable
        Function of x, y [px] and of the offsets dx, dy of columns and rows [px] that returns the PSF at that
        position (rows, columns).
    fwhm : float
        [px].
    max_stars : int
        Approximate number of stars to use, evenly chosen by their rank in brightness.

    Returns
    -------
    float
        Median over the stars of |data - model| summed over the core, divided by the flux; NaN without any star.
    """
    fit = _Fit(stars, image, rms, int(np.clip(np.ceil(3.0 * fwhm), 5, 25)))
    fit = fit.take(np.arange(len(fit.x)) % max(1, len(fit.x) // max_stars) == 0)
    if len(fit.x) == 0:
        return np.nan

    def whole(dx, dy):
        return np.stack(
            [profile_at(*star) for star in zip(fit.centre_x, fit.centre_y, dx, dy, strict=True)], dtype=np.float64
        )

    for _ in range(3):
        _step(fit, _around(whole, *fit.offsets()))
    return _core_misfit(fit, whole(*fit.offsets()), fwhm)


def _core_misfit(fit: _Fit, profile: np.ndarray, fwhm: float) -> float:
    """Median over the stars of |data - model| summed within one FWHM, divided by the flux."""
    dx, dy = fit.offsets()
    core = (np.hypot(dx[:, None, :], dy[:, :, None]) < fwhm) & fit.valid
    return float(np.median((np.abs(fit.data - fit.model(profile)) * core).sum(axis=(1, 2)) / fit.flux))


def _step(fit: _Fit, profiles: list[np.ndarray]) -> None:
    """Improve flux, position and sky of every star for the profiles of `_around`."""
    weight = fit.root_weight(profiles[0])
    basis, triangle = fit.local(profiles[0], _gradient(profiles), weight)
    fit.update(basis, triangle, fit.residual(profiles[0], weight))


def _consistent(fit: _Fit, profile: np.ndarray) -> np.ndarray:
    """Which stars have residuals like those of the others, without cosmic ray, galaxy or neighbour."""
    signal = np.maximum(fit.flux[:, None, None] * profile, 0)
    variance = fit.rms**2 + signal / fit.gain + (0.02 * signal) ** 2
    chi = np.sqrt((((fit.data - fit.model(profile)) ** 2 / variance) * fit.valid).sum(axis=(1, 2)))
    chi = np.log(np.maximum(chi / np.sqrt(np.maximum(fit.valid.sum(axis=(1, 2)), 1)), 1e-6))
    spread = mad_sigma(chi)
    near = np.hypot(fit.x, fit.y) < 1.2
    return near & (chi < max(np.median(chi) + 3 * max(spread, 0.1), 0.0))


def _tabulate(base, splines: _Splines, shape: np.ndarray, oversampling: int) -> np.ndarray:
    """Tabulate the model on a fine grid that contains 99 % of the flux and is centred on the centroid."""
    fwhm, beta = np.exp(shape[0]), np.exp(shape[3])
    alpha = moffat_alpha(fwhm, beta)
    wide = alpha * np.sqrt(0.007 ** (1 / (1 - beta)) - 1)
    radius = int(np.ceil(np.clip(wide, 3 * fwhm, 6 * fwhm))) + 2
    offset = np.arange(-radius * oversampling, radius * oversampling + 1) / oversampling
    shift = np.zeros(2)
    window = 1.5 * fwhm / FWHM_PER_SIGMA

    def planes():
        dx, dy = offset + shift[0], offset + shift[1]
        all_terms = _bsplines(dy, splines.nodes) @ splines.coefficients @ _bsplines(dx, splines.nodes).T
        all_terms[0] += base(dx[None], dy[None])[0]
        return all_terms

    for _ in range(20):
        core = planes()[0] * np.exp(-(offset**2 + offset[:, None] ** 2) / (2 * window**2))
        move = np.array([(core * offset).sum(), (core * offset[:, None]).sum()]) / core.sum()
        shift += 1.5 * move
        if np.abs(move).max() < 1e-5:
            break
    return planes()
