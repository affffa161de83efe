"""A small cube for tests of the classifier: point sources against dipoles, spikes and blobs."""

from __future__ import annotations

import numpy as np
import pandas as pd

CHANNELS = ("difference", "science", "reference", "mask")
ARTEFACTS = ("dipole", "cosmic", "blob")


def make_cube(n: int = 400, *, size: int = 32, n_images: int = 20, seed: int = 1) -> dict[str, np.ndarray]:
    """Half True, half False, with every array of a built cube; some pixels are missing."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2).astype(np.uint8)
    image = rng.integers(0, n_images, n)
    seeing = rng.uniform(2.5, 4.5, n_images)[image]
    noise = rng.uniform(5, 60, n_images)[image]
    snr = rng.uniform(6, 60, n)
    y, x = np.mgrid[:size, :size] - size // 2
    cube = np.empty((n, size, size, 4), dtype=np.float32)
    artefacts = np.where(labels == 1, "", np.asarray(ARTEFACTS)[rng.integers(0, 3, n)])
    fwhms = np.empty(n)
    for k in range(n):
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        sigma = seeing[k] / 2.3548
        if artefacts[k] == "dipole":
            shift = rng.uniform(0.6, 1.2) * sigma
            source = _gauss(x - dx - shift, y - dy, sigma) - _gauss(x - dx + shift, y - dy, sigma)
        elif artefacts[k] == "cosmic":
            sigma = 0.35
            source = _gauss(x - dx, y - dy, sigma)
        else:
            sigma = sigma * (rng.uniform(1.8, 3.0) if artefacts[k] == "blob" else 1.0)
            source = _gauss(x - dx, y - dy, sigma)
        fwhms[k] = sigma * 2.3548 * rng.uniform(0.8, 1.2)
        source = source * snr[k] * noise[k] / (3.5449 * sigma * np.sqrt((source**2).sum() / (np.pi * sigma**2)))
        sky = rng.normal(0, noise[k], (3, size, size))
        cube[k] = np.stack([source + sky[0], source + sky[1] + 200, sky[2] + 200, np.zeros_like(source)], axis=-1)
    missing = rng.random(n) < 0.1
    cube[missing, :, :3, :3] = np.nan
    cube[missing, :, :3, 3] = 1
    return {
        "cube": cube,
        "labels": labels,
        "mags": np.where(rng.random(n) < 0.02, np.nan, 22 - 2.5 * np.log10(snr * noise)),
        "errmags": 1.0857 / snr,
        "filters": np.full(n, "R"),
        "fwhms": fwhms,
        "candids": np.array([f"I{i:02d}-{k:05d}" for k, i in enumerate(image)]),
        "images": np.array([f"I{i:02d}" for i in image]),
        "x": rng.uniform(20, 1000, n),
        "y": rng.uniform(20, 1000, n),
        "snr": snr,
        "seeing": seeing,
        "artefacts": artefacts,
        "kinds": np.where(labels == 1, "random", ""),
        "channels": np.array(CHANNELS),
        "telescope": np.array("tiny"),
        "pipeline": np.array("builtin"),
    }


def _gauss(x, y, sigma):
    return np.exp(-0.5 * (x**2 + y**2) / sigma**2)


def make_split(cube: dict[str, np.ndarray], *, fractions=(0.6, 0.15, 0.25)) -> pd.DataFrame:
    """Whole images dealt to train, validation and test."""
    names = np.unique(cube["images"])
    edges = np.round(np.cumsum(fractions)[:2] * len(names)).astype(int)
    sets = {
        name: ("train", "validation", "test")[np.searchsorted(edges, k, side="right")] for k, name in enumerate(names)
    }
    return pd.DataFrame(
        {
            "index": np.arange(len(cube["labels"])),
            "candid": cube["candids"],
            "image": cube["images"],
            "label": cube["labels"],
            "field": cube["images"],
            "cell": 0,
            "set": [sets[name] for name in cube["images"]],
        }
    )
