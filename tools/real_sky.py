"""Score models on real images: ``python -m tools.real_sky -m MODEL.onnx...`` uses every set of `tools.real_sets`.

Writes ``real_sky.csv`` (one row for each set, model and choice of inputs), ``causes.csv`` (the same by kind, sign, S/N and
which image was convolved) and, for the first model, a picture of the most confident errors of each set.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.cubes.labels import override_labels
from otrain_core.errors import OtrainError
from otrain_core.evaluation.bootstrap import bootstrap_intervals
from otrain_core.evaluation.calibrate import Calibration, logit, pull_calibration
from otrain_core.evaluation.cuts import FixedCuts, fit_cuts, properties_of
from otrain_core.evaluation.metrics import REAL_FRACTIONS, auc, confusion, ece, purity, rates
from otrain_core.plan.config import FinetuneOptions
from tools.real_sets import CHANNELS, CLONE, SETS, build_set

log = logging.getLogger("otrain.real_sky")

PUBLISHED = CLONE / "results/published/real-sky"
UNIVERSAL = CLONE / "otrain_core/classify/models/universal.onnx"
# Inputs that are removed, for models that do not need them.
CHOICES = {"all": (), "no psf": ("psf",), "difference": ("psf", "science", "reference", "seeing")}
DRAWS, CONFIDENCE = 400, 0.95
OWN_LABELS, OWN_DRAWS = 50, 40  # labels of the user's own images for a calibration, and number of draws of them
SNR_EDGES = (0, 6, 10, 20, 50, np.inf)
INTERVALS = ("auc", "recall", "fpr", "ece")
PURITIES = {fraction: f"purity_{100 * fraction:g}pct".replace(".", "") for fraction in REAL_FRACTIONS}
COLUMNS = ["set", "inputs", "model", "n_images", "n_real", "n_bogus", "n_left_out", "threshold"]
COLUMNS += [
    f"{name}{end}" for name in (*INTERVALS, "ece_50_labels", *PURITIES.values()) for end in ("", "_low", "_high")
]
COLUMNS += ["note"]
INJECTED = ("random", "galaxy", "star", "variable")  # kinds of injected sources
SHOWN = 8  # cutouts of each class in a picture
GREYS = 32  # grey levels of the pictures, few so that the files are small
STDPIPE = Path.home() / ".stdpipe/models/realbogus_default.h5"  # STDPipe is distributed without weights


@dataclass
class Scored:
    """Output of a model for the candidates of a set, each array (N,).

    Attributes
    ----------
    model, inputs : str
        Name, and the channels used.
    score, probability : numpy.ndarray
        NaN if the model gives none.
    threshold : float
        Threshold of the score.
    found : mapping of arrays
        As from `otrain_core.classify.classifier.Classifier.classify`; empty for rules without a network.
    """

    model: str
    inputs: str
    score: np.ndarray
    probability: np.ndarray
    threshold: float
    found: Mapping[str, np.ndarray]


def by_hand(name: str, cube: dict[str, np.ndarray], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Mask of the candidates that are kept. Those judged real or unsure by eye are left out: they are not bogus, and were not selected at random."""
    n = len(cube["labels"])
    column = {key: cube[source] for key, source in (("image", "images"), ("candid", "candids"), ("x", "x"), ("y", "y"))}
    column |= {"label": cube["labels"].astype(int), "edge": np.zeros(n, bool), "injection": np.full(n, -1)}
    column |= dict.fromkeys(("reason", "kind", "artefact"), np.full(n, ""))
    changed, _ = override_labels(column, rows, telescope=name, pipeline="")
    return changed["label"] == cube["labels"]


def usable(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mask of the candidates that are counted: no injected sources, and no candidates of a sign without any True."""
    kinds, labels, signs = cube["kinds"].astype(str), cube["labels"] == 1, cube["signs"]
    real = labels & ~np.isin(kinds, INJECTED)
    return (real | ~labels) & np.isin(signs, np.unique(signs[real]))


def without(cube: Mapping[str, np.ndarray], taken: Sequence[str]) -> dict[str, np.ndarray]:
    """A copy of a cube in which some channels and columns are replaced by missing values."""
    left = dict(cube)
    index = [CHANNELS.index(name) for name in taken if name in CHANNELS]
    if index:
        left["cube"] = cube["cube"].copy()
        left["cube"][..., index] = np.nan
    return left | {name: np.full(len(cube["labels"]), np.nan) for name in taken if name not in CHANNELS}


def network_scores(name: str, path: str | Path, cube: Mapping[str, np.ndarray]) -> Iterator[Scored]:
    """Scores of a network for every choice of inputs that affects it."""
    from otrain_core.classify.classifier import Classifier

    classifier = Classifier.load(path)
    threshold = 0.5 if classifier.threshold is None else classifier.threshold
    classifier.threshold = threshold
    seen: set[str] = set()
    for taken in CHOICES.values():
        given = without(cube, taken)
        there = [key for k, key in enumerate(CHANNELS) if np.isfinite(given["cube"][..., k]).any()]
        there += [key for key in ("seeing",) if np.isfinite(given[key]).any()]
        inputs = " ".join(key for key in classifier.channels if key in there)
        if inputs in seen:
            continue
        seen.add(inputs)
        found = classifier.classify(given)
        yield Scored(name, inputs, found["score"].astype(float), found["probability"], threshold, found)


def cuts_scores(cuts: FixedCuts, cube: Mapping[str, np.ndarray]) -> Scored:
    """1 if the fixed cuts accept a candidate, 0 if not; NaN if S/N or FWHM is unknown."""
    of = properties_of(cube)
    score = np.where(of.usable, cuts.accept(of).astype(float), np.nan)
    return Scored("fixed cuts", "S/N FWHM shape", score, np.full(len(score), np.nan), 0.5, {})


def stdpipe_scores(cube: Mapping[str, np.ndarray]) -> Scored:
    """Scores of STDPipe's ``realbogus`` for the differences, with weights trained by the user."""
    from stdpipe.realbogus import load_realbogus_model, preprocess_cutout

    model = load_realbogus_model(str(STDPIPE))
    planes = np.nan_to_num(cube["cube"][..., 0][:, 1:, 1:])  # the network needs an odd side
    seeing = np.where(np.isfinite(cube["seeing"]), cube["seeing"], 3.0)
    stack = np.stack([preprocess_cutout(plane, fwhm=fwhm)[0] for plane, fwhm in zip(planes, seeing, strict=True)])
    score = model.predict(stack, verbose=0).ravel().astype(float)
    return Scored("stdpipe realbogus", "difference", score, score, 0.5, {})


def with_prior(probability: np.ndarray, real_fraction: float) -> np.ndarray:
    """Convert probabilities for equal numbers of real and bogus candidates to another fraction of real ones."""
    odds = logit(probability) + np.log(real_fraction / (1 - real_fraction))
    return 0.5 * (1 + np.tanh(0.5 * odds))


def measure(cube: Mapping[str, np.ndarray], scored: Scored, kept: np.ndarray) -> dict[str, Any]:
    """One row of the table: metrics of a model on a set, with intervals over the units of the set.

    The purity for 1 and 0.1 % real candidates follows from recall and FPR; its interval combines the unfavourable ends of
    both, and the favourable ends. The ECE is that of the probabilities converted to the set's fraction of real candidates.
    """
    rng = np.random.default_rng(1)
    labels, units, score = cube["labels"][kept], cube["units"][kept].astype(str), scored.score[kept]
    row: dict[str, Any] = {"n_real": int((labels == 1).sum()), "n_bogus": int((labels == 0).sum())}
    row |= {"n_images": len(np.unique(cube["images"][kept])), "threshold": scored.threshold}
    values = {name: rates(**confusion(labels, score, scored.threshold))[name] for name in ("recall", "fpr")}
    options: dict[str, Any] = {"draws": DRAWS, "confidence": CONFIDENCE, "stated_recall": 0.95}
    ends = bootstrap_intervals(labels, score, units, scored.threshold, rng=rng, **options)
    values["auc"] = auc(labels, score)
    probability = scored.probability[kept]
    if np.isfinite(probability).all():
        moved = with_prior(probability, float(labels.mean()))
        values["ece"] = ece(labels, moved)
        ends["ece"] = bootstrap_intervals(labels, moved, units, 0.5, rng=rng, **options)["ece"]
        values["ece_50_labels"], ends["ece_50_labels"] = own_calibration(labels, probability, units, rng=rng)
    else:  # a rule that only accepts or rejects
        ends |= {"auc": (np.nan, np.nan), "ece": (np.nan, np.nan)}
        values["auc"] = np.nan
    for fraction, name in PURITIES.items():
        values[name] = purity(values["recall"], values["fpr"], fraction)
        (low, high), (least, most) = ends["recall"], ends["fpr"]
        ends[name] = purity(low, most, fraction), purity(high, least, fraction)
    for name, value in values.items():
        row |= {name: value, f"{name}_low": ends[name][0], f"{name}_high": ends[name][1]}
    return row


def own_calibration(
    labels: np.ndarray, probability: np.ndarray, units: np.ndarray, *, rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    """ECE after a calibration on 50 labelled candidates of other images: median and interval over draws of these.

    As in fine-tuning, the calibration curve is regularised towards the model's own curve, converted to the fraction of real
    candidates among the 50.
    """
    errors, pull = [], FinetuneOptions().pull
    names, of = np.unique(units, return_inverse=True)
    sizes = np.bincount(of)
    for _ in range(OWN_DRAWS):
        order = rng.permutation(len(names))
        chosen = np.zeros(len(names), bool)
        chosen[order[: np.searchsorted(np.cumsum(sizes[order]), OWN_LABELS) + 1]] = True
        mine, rest = np.flatnonzero(chosen[of]), ~chosen[of]
        if len(mine) < OWN_LABELS or rest.sum() < OWN_LABELS or len(np.unique(labels[rest])) < 2:
            continue
        mine = rng.choice(mine, OWN_LABELS, replace=False)
        share = (labels[mine].sum() + 1) / (OWN_LABELS + 2)
        start = Calibration(1.0, float(np.log(share / (1 - share))))
        calibration = pull_calibration(labels[mine], logit(probability[mine]), start=start, pull=pull)
        errors.append(ece(labels[rest], calibration.apply(probability[rest])))
    if not errors:
        return np.nan, (np.nan, np.nan)
    low, middle, high = np.percentile(errors, [2.5, 50, 97.5])
    return float(middle), (float(low), float(high))


def causes(cube: Mapping[str, np.ndarray], scored: Scored, kept: np.ndarray) -> Iterator[dict[str, Any]]:
    """Metrics by possible causes of errors; each kind of real source is compared with all bogus."""
    labels, known = cube["labels"] == 1, np.isfinite(scored.score)
    kept = kept & known
    parts: list[tuple[str, str, np.ndarray]] = []
    for kind in sorted(set(cube["kinds"][labels].astype(str))):
        parts.append(("kind", kind, (kept & ~labels) | (known & labels & (cube["kinds"] == kind))))
    for side in sorted(set(cube["convolved"].astype(str)) - {""}):
        parts.append(("convolved", side, kept & (cube["convolved"] == side)))
    for low, high in zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True):
        parts.append(("snr", f"{low:g} to {high:g}", kept & (cube["snr"] >= low) & (cube["snr"] < high)))
    for sign in (-1, 1):
        parts.append(("sign", f"{sign:+d}", known & (cube["signs"] == sign) & ((labels & kept) | ~labels)))
    for image in np.unique(cube["images"]):
        parts.append(("image", str(image), kept & (cube["images"] == image)))
    for by, value, rows in parts:
        if rows.any():
            some, score = cube["labels"][rows], scored.score[rows]
            about = {"by": by, "value": value, "n_real": int(some.sum()), "n_bogus": int((some == 0).sum())}
            values = rates(**confusion(some, score, scored.threshold))
            yield about | {"auc": auc(some, score), "recall": values["recall"], "fpr": values["fpr"]}


def draw_wrong(cube: Mapping[str, np.ndarray], scored: Scored, kept: np.ndarray, path: Path, title: str) -> None:
    """Draw the real candidates with the lowest and the bogus with the highest probability."""
    from otrain_core.figures.stamps import draw_stamps
    from otrain_core.io import atomic

    rows: list[int] = []
    for label, sign in ((1, 1), (0, -1)):
        mine = np.flatnonzero(kept & (cube["labels"] == label))
        rows += mine[np.argsort(sign * scored.probability[mine], kind="stable")][:SHOWN].tolist()
    words = [
        f"{'real' if cube['labels'][k] else 'bogus'} {cube['kinds'][k] or cube['artefacts'][k]} {cube['candids'][k][-12:]}"
        for k in rows
    ]
    table = {"candid": np.array(words), "mag": np.full(len(rows), np.nan), "snr": cube["snr"][rows]}
    table |= {key: scored.found[key][rows] for key in ("probability", "undecided", "reason")}
    middle = cube["cube"].shape[1] // 2
    window = slice(max(0, middle - 16), middle + 16)
    stamps = cube["cube"][rows][:, window, window]
    picture = draw_stamps(table, stamps, channels=CHANNELS, n=len(rows), title=f"{title}: {scored.model}")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        picture.quantize(GREYS).save(file, "PNG", optimize=True)


def demo_models(results: Path) -> tuple[dict[str, Path], FixedCuts | None, list[str]]:
    """Networks and fixed cuts of `make demo`, and a list of those that are missing."""
    from otrain_core.cubes.cube_format import read_cube

    missing, networks = [], {}
    for experiment in ("otrain2", "paper"):
        path = results / f"demo/builtin/{experiment}/seed1/model.onnx"
        if path.is_file():
            networks[f"demo {experiment}"] = path
        else:
            missing.append(f"demo {experiment}: {path} is not there, run make demo")
    path = results / "demo/builtin/cube.npz"
    if not path.is_file():
        return networks, None, [*missing, f"fixed cuts: {path} is not there, run make demo"]
    cube = read_cube(path, mmap=True)
    cuts = fit_cuts(properties_of(cube), cube["labels"] == 1, np.ones(len(cube["labels"]), bool))
    return networks, cuts, missing


def score_set(
    name: str,
    cube: Mapping[str, np.ndarray],
    networks: Mapping[str, str | Path],
    cuts: FixedCuts | None,
    *,
    stays: np.ndarray,
    picture: Path | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables for one set.

    Parameters
    ----------
    name : str
    cube : mapping of arrays
        As from `tools.real_sets.build_set`.
    networks : mapping of str to path-like
        ONNX files by name.
    cuts : FixedCuts or None
    stays : numpy.ndarray
        bool (N,), see `by_hand`.
    picture : path-like, optional
        Picture written: the most confident errors of the first network, with all inputs.
    """
    kept, table, parts = usable(cube) & stays, [], []
    scores: list[Scored] = [one for key, path in networks.items() for one in network_scores(key, path, cube)]
    if scores and picture is not None:
        draw_wrong(cube, scores[0], kept, picture, name)
    scores += [cuts_scores(cuts, cube)] if cuts is not None else []
    notes = {"fixed cuts": "fitted to the training set of the demo"}
    scores += [stdpipe_scores(cube)] if STDPIPE.is_file() else []
    for scored in scores:
        about = {"set": name, "inputs": scored.inputs, "model": scored.model}
        known = np.isfinite(scored.score)
        if not (kept & known).any():
            table.append(about | {"note": "S/N or FWHM is not known"})
            continue
        left = {"n_left_out": int((~stays & usable(cube)).sum()), "note": notes.get(scored.model, "")}
        table.append(about | measure(cube, scored, kept & known) | left)
        parts += [about | row for row in causes(cube, scored, kept)]
    return table, parts


def main(
    models: Mapping[str, str | Path],
    *,
    sets: Sequence[str] = tuple(SETS),
    data: str | Path = "../shared/data",
    folder: str | Path = "results/real-sky",
    output: str | Path = "",
    results: str | Path = "results",
    labels: str | Path = PUBLISHED / "labels.csv",
) -> pd.DataFrame:
    """Build the missing sets, score the models, and write tables and pictures.

    Parameters
    ----------
    models : mapping of str to path-like
        ONNX files by name.
    sets : sequence of str
    data, folder, output, results, labels : path-like
        Folders of the real data, of the sets, of the tables and pictures (default: that of the sets), and of the results of
        `make demo`; label sheet.

    Raises
    ------
    OtrainError
        The real data or a model are missing.
    """
    from otrain_core.io import write_json, write_table
    from otrain_core.jobs.provenance import provenance
    from otrain_core.plan.sheets import read_labels

    rows = read_labels(labels) if Path(labels).is_file() else []
    networks, cuts, missing = demo_models(Path(results))
    if not STDPIPE.is_file():
        missing.append(
            f"stdpipe realbogus: it comes without weights, and there are none in ~/{STDPIPE.relative_to(Path.home())}"
        )
    networks = {**models, **networks}
    output = Path(output or folder)
    output.mkdir(parents=True, exist_ok=True)
    table, parts = [], []
    for name in sets:
        cube = build_set(name, data, folder)
        found = score_set(name, cube, networks, cuts, stays=by_hand(name, cube, rows), picture=output / f"{name}.png")
        table += found[0]
        parts += found[1]
    for reason in missing:
        log.warning("left out: %s", reason)
    scored = pd.DataFrame(table, columns=COLUMNS)
    write_table(output / "real_sky.csv", scored)
    write_table(output / "causes.csv", pd.DataFrame(parts))
    about = provenance()
    write_json(
        output / "about.json", {key: about.get(key) for key in ("commit", "time", "versions")} | {"left_out": missing}
    )
    return scored


def as_text(table: pd.DataFrame) -> str:
    """The main columns of the table as text."""
    shown = ["set", "model", "inputs", "n_real", "n_bogus", *INTERVALS, "ece_50_labels", *PURITIES.values()]
    return table[shown].round(3).to_string(index=False, na_rep="-")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Score models on real images.")
    parser.add_argument("-m", "--models", nargs="*", default=[], metavar="[NAME=]FILE", help="ONNX files")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument(
        "--folder", default="results/real-sky", help="folder of the sets, which are built if they are missing"
    )
    parser.add_argument("-o", "--output", default="", help="folder of tables and pictures (default: that of the sets)")
    parser.add_argument("--results", default="results", help="results of make demo, whose networks are scored too")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    chosen = {}
    for model in arguments.models:
        key, _, file = model.rpartition("=")
        chosen[key or Path(file).stem] = file
    if UNIVERSAL.is_file():
        chosen.setdefault("universal", UNIVERSAL)
    try:
        print(
            as_text(
                main(
                    chosen,
                    sets=arguments.sets,
                    data=arguments.data,
                    folder=arguments.folder,
                    output=arguments.output,
                    results=arguments.results,
                )
            )
        )
    except OtrainError as error:
        raise SystemExit(f"real-sky: {error}") from None
