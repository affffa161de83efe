"""Measure the purity for detections in one image and in two of three images: ``python -m tools.night_purity MODEL``.

The night is simulated (telescope demo: three exposures of each field that differ in pointing, noise and artefacts, with
hot pixels that stay at the same place on the detector). With ``--hatp32 FOLDER`` triplets of real frames are measured too.
Sources are added at the same positions on the sky in all three images; all other candidates count as bogus. The score
from one image is the probability of the candidate. The score from two of three images is the second highest probability
of the object, and 0 if it is seen only once or stays at the same place on the detector.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from otrain_core.classify import Classifier
    from otrain_core.plan.recipe import Recipe
    from otrain_core.plan.telescopes import Telescope

COLUMNS = ("night", "images", "real", "bogus", "score", "recall", "false_positives", "purity", "purity_low")
PREVALENCE, RECALL = 0.01, 0.9  # fraction of candidates that are real, and fraction of the real ones that are kept
DITHER, MARGIN = 15, 20  # largest offset of the simulated exposures, and margin simulated around them [px]
FIELDS, SIDE, SOURCES = 7, 512, 15  # simulated fields, their side [px], sources added to each field or triplet
FIRST_FIELD = 500  # index of the first field; no training uses these fields
NEAR = 1.5  # largest distance between a candidate and its source [px]
FRAMES, STEP, REFERENCE = (
    4,
    3,
    10,
)  # triplets of hatp32, frames from one of a triplet to the next, frames of the reference


def purity(real: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Purity at `PREVALENCE` for the threshold that keeps `RECALL` of the real candidates.

    Parameters
    ----------
    real : numpy.ndarray
        (N,) bool
    score : numpy.ndarray
        (N,)

    Returns
    -------
    dict of float
        recall, false_positives (fraction of the bogus), purity, and purity_low: the purity for the upper end of the 95 %
        interval of that fraction (Clopper & Pearson 1934), which assumes independent candidates.
    """
    from scipy.stats import beta

    threshold = np.sort(score[real])[::-1][int(np.ceil(RECALL * real.sum())) - 1]
    kept, n = score >= threshold, int((~real).sum())
    recall, wrong = float(kept[real].mean()), int(kept[~real].sum())
    upper = float(beta.ppf(0.975, wrong + 1, n - wrong)) if wrong < n else 1.0

    def pure(share: float) -> float:
        return PREVALENCE * recall / (PREVALENCE * recall + (1 - PREVALENCE) * share)

    return {"recall": recall, "false_positives": wrong / n, "purity": pure(wrong / n), "purity_low": pure(upper)}


def second_highest(detections: Sequence[dict[str, Any]]) -> np.ndarray:
    """Score from two of three images for each detection, from its context."""
    from otrain_core.night.context import is_fixed

    of_object: dict[Any, dict[int, float]] = {}
    for item in detections:
        best = of_object.setdefault(item["object"], {})
        best[item["image"]] = max(item["probability"], best.get(item["image"], 0.0))
    fixed = {item["object"] for item in detections if is_fixed(item)}
    scores = []
    for item in detections:
        of_image = sorted(of_object[item["object"]].values()) if item["object"] is not None else []
        scores.append(of_image[-2] if len(of_image) > 1 and item["object"] not in fixed else 0.0)
    return np.array(scores)


def add_sources(
    path: Path, places: np.ndarray | None, *, recipe: Recipe, rng: np.random.Generator, magnitudes: Any = None
):
    """Add sources to an image on disk, at random positions or at `places` (ra, dec, mag); return their table."""
    import pandas as pd
    from astropy.io import fits

    from otrain_core.images.frames import read_image
    from otrain_core.images.pixels import add_stamp
    from otrain_core.images.wcs import sky_to_pixel
    from otrain_core.stars.psf import measure_psf
    from otrain_core.stars.truth import add_light, limits, sky_positions

    image = read_image(path, name=path.stem, detector=recipe.detector, wcs_path=None)
    model, record = measure_psf(image, options=recipe.pipeline.psf)
    limit, zero_point = limits(image, record)
    height, width = image.shape
    if places is None:
        edge = 2 * DITHER + recipe.pipeline.cutouts.size
        x, y = rng.uniform(edge, width - edge, SOURCES), rng.uniform(edge, height - edge, SOURCES)
        places = np.column_stack([*sky_positions(image, x, y), rng.uniform(limit - 3.5, limit - 0.2, SOURCES)])
    x, y = sky_to_pixel(image.wcs, places[:, 0], places[:, 1], shape=image.shape)
    added = np.zeros(image.shape)
    for xi, yi, mag in zip(x, y, places[:, 2], strict=True):
        stamp, y0, x0 = model.stamp(xi, yi)
        add_stamp(
            added,
            rng.poisson(np.maximum(10 ** (0.4 * (zero_point - mag)) * stamp * image.gain, 0)) / image.gain,
            y0,
            x0,
        )
    fits.PrimaryHDU(add_light(image, added), image.header).writeto(path, overwrite=True)
    return places, pd.DataFrame({"x": x, "y": y})


def simulate_night(
    folder: Path, index: int, *, telescope: Telescope, n: int = 3, seed: int = 1
) -> tuple[list[Path], Path]:
    """Write dithered exposures of one field, with hot pixels fixed on the detector, and their reference; return the paths."""
    from astropy.io import fits

    from otrain_core.sky.artefacts import add_hot_pixels
    from otrain_core.sky.simulate import simulate_pair

    sky = telescope.sky
    size, hot = (sky.height, sky.width), sky.hot_pixels
    wider = {"height": size[0] + 2 * MARGIN, "width": size[1] + 2 * MARGIN, "hot_pixels": 0.0}
    telescope = telescope.model_copy(update={"sky": sky.model_copy(update=wider)})
    rng, paths = np.random.default_rng([seed, index]), []
    for exposure in range(n):
        pair = simulate_pair(telescope, index=index, seed=seed, exposure=exposure)
        left, bottom = MARGIN + rng.integers(-DITHER, DITHER + 1, 2)
        data = pair.science[bottom : bottom + size[0], left : left + size[1]].copy()
        header = pair.science_header
        header["CRPIX1"] -= left
        header["CRPIX2"] -= bottom
        header["DATE-OBS"] = f"2024-01-01T02:{10 * exposure:02d}:00"
        noise = np.sqrt(header["SKYLEVEL"] / header["GAIN"])
        add_hot_pixels(data, np.random.default_rng([seed, 9]), n=int(hot * data.size / 1e6), noise=noise)
        paths.append(folder / f"im{index}_{exposure}.fits")
        fits.PrimaryHDU(data, header).writeto(paths[-1])
    reference = folder / f"reference{index}.fits"
    fits.PrimaryHDU(pair.reference, pair.reference_header).writeto(reference)
    return paths, reference


def hatp32_frames(data: Path) -> tuple[list[Path], list[Path]]:
    """Frames of hatp32 in chronological order, and the file with the WCS of each."""
    frames = sorted((data / "frames").glob("*.fits.gz"))
    return frames, [data / "wcs" / f"{path.name.removesuffix('.fits.gz')}.wcs" for path in frames]


def stack_first(data: Path, reference: Path, *, n: int, recipe: Recipe) -> None:
    """Write the reference of hatp32: the stack of its first `n` frames."""
    from otrain_core.sky.reference import reference_files

    frames, wcs = hatp32_frames(data)
    reference_files(
        frames=[str(path) for path in frames[:n]],
        wcs=[str(path) for path in wcs[:n]],
        reference=reference,
        record=reference.with_suffix(".json"),
        detector=recipe.detector,
        field="hatp32",
    )


def with_wcs(frame: Path, wcs: Path, folder: Path) -> Path:
    """Write a frame, with the WCS in its header, to `folder`; return its path."""
    from astropy.io import fits

    path = folder / f"{frame.name.removesuffix('.fits.gz')}.fits"
    with fits.open(frame) as hdus:
        fits.PrimaryHDU(hdus[0].data, hdus[0].header + fits.getheader(wcs)).writeto(path, overwrite=True)
    return path


def hatp32_night(folder: Path, data: Path, *, recipe: Recipe) -> tuple[list[list[Path]], Path]:
    """Triplets of frames of hatp32 with their WCS, and a reference stacked from the first frames."""
    (frames, wcs), reference = hatp32_frames(data), folder / "reference.fits"
    stack_first(data, reference, n=REFERENCE, recipe=recipe)
    starts = np.linspace(REFERENCE, len(frames) - 1 - 2 * STEP, FRAMES).astype(int)
    chosen = [range(start, start + 3 * STEP, STEP) for start in starts]
    return [[with_wcs(frames[k], wcs[k], folder) for k in group] for group in chosen], reference


def search_night(
    paths: Sequence[Path], reference: Path, *, classifier: Classifier, recipe: Recipe, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Add sources to the images of a night and search them: detections with their context, and which of them are sources."""
    from otrain_core.night.context import detections_of
    from otrain_core.night.hand_on import HandOn, keep
    from otrain_core.night.ledger import Ledger
    from otrain_core.night.search import search_image

    ledger, places, truth = Ledger(":memory:"), None, {}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            places, truth[path.stem] = add_sources(path, places, recipe=recipe, rng=rng)
            found = search_image(path, reference=reference, classifier=classifier, recipe=recipe, image=path.stem)
            number, name = ledger.begin(path.stem, path=str(path), name=path.stem) or (0, "")
            keep(found, ledger, number, name=name, night="n", folder=Path(folder), gallery=0, hand_on=HandOn())
    detections = detections_of(ledger, "n")
    real = [
        bool(
            np.hypot(truth[item["image_name"]]["x"] - item["x"], truth[item["image_name"]]["y"] - item["y"]).min()
            < NEAR
        )
        for item in detections
    ]
    return detections, np.array(real)


def rows_of(name: str, real: np.ndarray, one: np.ndarray, two: np.ndarray, *, images: int) -> list[dict[str, Any]]:
    """Rows of the table: for one image, and for two of three."""
    counts = {"night": name, "images": images, "real": int(real.sum()), "bogus": int((~real).sum())}
    return [
        counts | {"score": label} | purity(real, score) for label, score in (("one image", one), ("two of three", two))
    ]


def main(model: str, output: str, *, hatp32: str | None = None, seed: int = 1) -> None:
    """Measure, and write ``purity.csv``."""
    import pandas as pd

    from otrain_core.classify import Classifier
    from otrain_core.io import write_json, write_table
    from otrain_core.jobs.provenance import provenance
    from otrain_core.plan.config import Config
    from otrain_core.plan.recipe import Recipe, read_recipe
    from otrain_core.plan.telescopes import Detector, read_telescopes

    classifier = Classifier.load(model)
    recipe = read_recipe(classifier.about, where=model) or Recipe(
        Config().pipelines["builtin"], Detector(), "", "builtin"
    )
    telescopes, rows = read_telescopes("config/telescopes"), []
    sky = telescopes["demo"].sky.model_copy(update={"width": SIDE, "height": SIDE})
    demo = telescopes["demo"].model_copy(update={"sky": sky})
    with tempfile.TemporaryDirectory(prefix="otrain-purity-") as work:
        nights = {
            "simulated": [simulate_night(Path(work), FIRST_FIELD + k, telescope=demo, seed=seed) for k in range(FIELDS)]
        }
        recipes = {"simulated": recipe, "hatp32": replace(recipe, detector=telescopes["cecilia"].detector)}
        if hatp32:
            triplets, reference = hatp32_night(Path(work), Path(hatp32), recipe=recipes["hatp32"])
            nights["hatp32"] = [(paths, reference) for paths in triplets]
        for name, groups in nights.items():
            parts: list[list[np.ndarray]] = [[], [], []]
            rng = np.random.default_rng(seed)
            for paths, reference in groups:
                detections, real = search_night(paths, reference, classifier=classifier, recipe=recipes[name], rng=rng)
                one = np.array([item["probability"] for item in detections])
                for part, values in zip(parts, (real, one, second_highest(detections)), strict=True):
                    part.append(values)
            rows += rows_of(name, *map(np.concatenate, parts), images=sum(len(paths) for paths, _ in groups))
    folder = Path(output)
    write_table(folder / "purity.csv", pd.DataFrame(rows)[list(COLUMNS)].round(4))
    about = {key: classifier.about.get(key) for key in ("telescope", "experiment", "seed")}
    record = {key: value for key, value in provenance().items() if key in ("commit", "time", "cpus", "versions")}
    write_json(folder / "about.json", record | {"model": about, "prevalence": PREVALENCE})
    print(pd.DataFrame(rows)[list(COLUMNS)].round(4).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="model.onnx")
    parser.add_argument("-o", "--output", default="results/published/night")
    parser.add_argument("--hatp32", metavar="FOLDER", help="frames and wcs of HAT-P-32")
    arguments = parser.parse_args()
    main(arguments.model, arguments.output, hatp32=arguments.hatp32)
