"""Captions of the reproduced figures and tables: what is as in the paper, what differs, and on which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otrain_core.evaluation.words import count, interval, num, pct
from otrain_core.paper.claims import gap_knee, published_value
from otrain_core.paper.plan import FIGURE_CUBES, GALLERIES, PANELS, SWEEPS, cubes_of

TITLES = {
    "fig01": "Architecture of the network",
    "fig02": "The training procedure",
    "fig03": "Layers and parameters as Keras lists them",
    "fig04": "Magnitudes of the injected sources",
    "fig05": "Cutouts of JAST by gmadet and STDPipe",
    "fig06": "Cutouts of FRAM-CTA-N",
    "fig07": "Cutouts of TACA",
    "fig08": "Cutouts of TCA",
    "fig09": "Grad-CAM of a bogus candidate",
    "fig10": "Diagnostics of JAST-gmadet",
    "fig11": "Size of the training set",
    "fig12": "Size of the cutouts",
    "fig13": "Grad-CAM of a missed transient",
    "figA1": "Diagnostics of JAST-STDPipe",
    "figA2": "Diagnostics of TACA-gmadet",
    "figA3": "Diagnostics of FRAM-CTA-N-gmadet",
    "figA4": "Diagnostics of TCA-gmadet",
    "table1": "Arrays of the training cube",
    "table2": "Telescopes and images",
    "table3": "Cubes",
    "table4": "Components of the confusion matrix",
    "table5": "Classification of the five cubes",
}
PROTOCOLS = {
    "random": "random 85/15 split of the cutouts, threshold set on the scored set itself (the paper's protocol)",
    "by-image": "split by image, threshold from the validation set, scores from test images not used in any training",
}
_STUDY = (
    "The split is by image and scores come from test images (the paper splits cutouts at random); points are means"
    " over {seeds} seeds, bars go from the lowest to the highest; each smaller training set is a subset of the larger."
)


def make_caption(name: str, plan: Mapping[str, Any], facts: Mapping[str, Any], table=None) -> dict[str, Any]:
    """Caption of a figure or table.

    Parameters
    ----------
    name : str
        One of `otrain_core.paper.plan.FIGURES` or TABLES.
    plan, facts : mapping
        As from `otrain_core.paper.plan.plan_paper` and `otrain_core.paper.data.figure_data`.
    table : pandas.DataFrame, optional
        Table of the figure; needed for Fig. 11.

    Returns
    -------
    dict
        name, number (for example Fig. 10), title, made, missing, heading (title of Figs. 10 and A.1 to A.4), same, differs, data.
    """
    caption = {"name": name, "number": number_of(name), "title": TITLES[name], "made": "missing" not in facts}
    caption |= {"missing": facts.get("missing", ""), "heading": "", "same": "", "differs": "", "data": ""}
    if not caption["made"]:
        return caption
    words = {"fig01": _architecture, "fig02": _loop, "fig03": _summary, "fig04": _magnitudes}
    words |= {"fig09": _right_map, "fig13": _wrong_map, "fig11": _data_size, "fig12": _size}
    words |= (
        dict.fromkeys(GALLERIES, _gallery) | dict.fromkeys(PANELS, _panels) | {"table1": _table1, "table2": _table2}
    )
    words |= {"table3": _table3, "table4": _table4, "table5": _table5}
    same, differs = words[name](plan, facts, table)
    if name in PANELS:
        caption["heading"] = _heading(facts)
    return caption | {"same": same, "differs": differs, "data": _data(name, plan, facts)}


def number_of(name: str) -> str:
    """Number of a figure or table, for example Fig. 4, Fig. A.1 or Table 5."""
    if name.startswith("table"):
        return f"Table {name[5:]}"
    return f"Fig. A.{name[4:]}" if name.startswith("figA") else f"Fig. {int(name[3:])}"


def caption_text(caption: Mapping[str, Any]) -> str:
    """A caption as one paragraph."""
    if not caption["made"]:
        return f"{caption['number']}. {caption['title']}. Not made: {caption['missing']}."
    parts = [f"{caption['number']}. {caption['title']}."]
    parts += [f"As in the paper: {caption['same']}", f"Different: {caption['differs']}", f"Data: {caption['data']}"]
    return " ".join(parts)


def _data(name: str, plan: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if name in ("fig01", "fig03"):
        return "none; the untrained network is built from the configuration of the run."
    cubes = cubes_of(plan, name) if name in FIGURE_CUBES else plan["cubes"]
    if name in SWEEPS:
        cubes = facts["cubes"]
    elif name.startswith("table") and "cube" in facts:
        cubes = [facts["cube"]]
    telescopes = list(dict.fromkeys(cube.split("/")[0] for cube in cubes))
    simulated = [name for name in telescopes if plan["telescopes"].get(name, {}).get("source") == "simulated"]
    real = [name for name in telescopes if name not in simulated]
    parts = []
    if simulated:
        parts.append(
            f"simulated images with the properties of {_list(simulated)} as far as these are known (config/telescopes"
            " marks assumed values); they say nothing about the real telescopes"
        )
    if real:
        parts.append(f"images of {_list(real)}")
    if facts.get("n_images"):
        parts.append(f"{facts['n_images']} images")
    if facts.get("subtraction"):
        parts.append(f"subtraction by {_list(facts['subtraction'])}")
    return "; ".join(parts) + "."


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)


def _architecture(plan, facts, table):
    name, parameters = next(iter(facts["parameters"].items()))
    same = f"the layers of the network {name}: {count(parameters)} parameters."
    return (
        same,
        "drawn from the model object; sides of the boxes are to scale, their thickness increases with the number of channels.",
    )


def _summary(plan, facts, table):
    totals = "; ".join(f"{name}: {count(value)} parameters" for name, value in facts["parameters"].items())
    return "layers, output shapes and parameters.", f"both networks are shown ({totals})."


def _loop(plan, facts, table):
    same = "training and validation sets, batches and epochs; the numbers are from the record of the training."
    return same, f"{PROTOCOLS[facts['protocol']]}; {facts['cube']}."


def _magnitudes(plan, facts, table):
    same = f"the injected sources recovered by gmadet, over a wide range of magnitudes ({facts['cube']})."
    found = f"{count(facts['found'])} of {count(facts['injected'])}"
    return (
        same,
        f"the injected sources are shown too ({found} are recovered); magnitudes are calibrated, not relative to an arbitrary zero point.",
    )


def _gallery(plan, facts, table):
    sizes = "; ".join(
        f"{cube}: {count(row['n_true'])} True and {count(row['n_false'])} False of {row['side']} px"
        for cube, row in facts["counts"].items()
    )
    same = f"cutouts of the difference, False left and True right; True are injected sources ({sizes})."
    return (
        same,
        "drawn at random; the label gives the magnitude and, for a False, its cause known from the simulation; tan: missing pixels.",
    )


def _map(plan, facts, table):
    lines = []
    for name, row in facts["shown"].items():
        record = row["record"]
        lines.append(
            f"{name}: averaged over {count(record.get('n'))} such decisions, {pct(record.get('energy_within_fwhm'))} of the"
            f" map lies within one FWHM of the candidate (flat map: {pct(record.get('energy_of_flat_map'))})"
        )
    outputs = {row["output"] for row in facts["shown"].values()}
    what = (
        "the gradient is that of the difference of the logits, not of the softmax, which saturates"
        if outputs == {"logit"}
        else ""
    )
    return "; ".join([*filter(None, [what]), *lines]) + "."


def _right_map(plan, facts, table):
    same = "residual cutout, and map at the resolution of the last convolution and of the cutout, for a False called False."
    return same, f"drawn at random, for both networks; tan: missing pixels; {_map(plan, facts, table)}"


def _wrong_map(plan, facts, table):
    rows = facts["shown"].items()
    lines = [
        f"{name}: score {num(row['score'])} (threshold {num(row['threshold'])})"
        + (
            f", {num(row['score_without'])} without the neighbour at {num(row['distance'], 1)} px"
            if row["score_without"] == row["score_without"]
            else ", no neighbour"
        )
        for name, row in rows
    ]
    for name, row in rows:
        tried = row["neighbours"].get("wrong True") or {}
        if tried.get("n"):
            lines.append(
                f"{name}: {count(tried.get('n_neighbours'))} of {count(tried['n'])} missed True have a neighbour;"
                f" {pct(tried.get('decisions_changed'))} of these are called True without it"
            )
    same = "a True that is called False, and the pixels on which the decision is based."
    return (
        same,
        f"among the worst misses, the one whose score rises most (or falls least) without its neighbour; {'; '.join(lines)}.",
    )


def _heading(facts) -> str:
    split = "random split" if facts["protocol"] == "random" else "split by image"
    row = facts["headline"]
    scored = f"{count(row['n_true'])} True, {count(row['n_false'])} False scored"
    return f"{facts['cube'].replace('/', ', ')}: {facts['experiment']}, seed {facts['seed']}, {split}, {scored}"


def _panels(plan, facts, table):
    row, published = facts["headline"], published_value(facts["cube"], "threshold")
    same = (
        "the four panels: F1 and MCC against the threshold, scores of both classes, accuracy and loss against the epoch,"
        f" ROC curves by magnitude. Network {facts['experiment']}; best threshold {num(row['threshold'], 2)}"
        f" (paper: {num(published.get('low'), 2)})."
    )
    differs = f"{PROTOCOLS[facts['protocol']]}; MCC {interval(row, 'mcc')}, accuracy {pct(row['accuracy'])},"
    differs += f" false positives {pct(row['fp_share'])} of the scored set."
    if tenth := facts.get("tenth"):
        differs += f" After ten epochs the accuracy is {pct(tenth['validation_accuracy'])}, the loss {num(tenth['validation_loss'], 2)}"
        differs += " (paper, JAST-gmadet: above 98 %, below 0.1)." if facts["cube"] == "JAST/gmadet" else "."
    return same, differs


def _done(facts) -> str:
    if facts["done"] == facts["planned"]:
        return f" All {facts['planned']} trainings are done."
    return f" {facts['done']} of {facts['planned']} trainings are done."


def _data_size(plan, facts, table):
    limit = published_value("all", "accuracy_gap")["high"]
    same = f"accuracy gap against the size of the training set ({pct(limit, 0)}: dashed); bottom: scores of the first cube."
    knees = []
    gap = "fit_minus_validation"
    for experiment, mine in gap_knee(table[table[gap].notna()], limit=limit, column=gap).groupby(
        "experiment", sort=False
    ):
        sizes = [
            f"{row.telescope} {row.pipeline} ({row.n_images:g} images): "
            + (f"{row.stays_under_from:g}" if row.stays_under_from > 0 else "none")
            for row in mine.itertuples()
        ]
        knees.append(f"{experiment}, {', '.join(sizes)}")
    epochs = ", ".join(f"{name}: {value}" for name, value in facts["epochs"].items())
    differs = (
        _STUDY.format(seeds=facts["seeds"])
        + " The gap of the paper (top) is the training accuracy of the last epoch, with dropout, minus the validation"
        " accuracy; the other gap (middle) is that of the kept epoch, with dropout off for both."
        f" Sizes count only the cutouts in train. Epochs: {epochs} (paper: 25). Smallest size from which"
        f" the paper's gap stays under {pct(limit, 0)}: {'; '.join(knees)}." + _done(facts)
    )
    return same, differs


def _size(plan, facts, table):
    same = "accuracy, F1 and MCC against the side of the cutouts, which are cropped from 63 px around the candidate."
    differs = _STUDY.split(";")[0] + f"; points are means over {facts['seeds']} seeds, for both networks"
    if "paper-normalised" in set(table["experiment"]):
        differs += " and for the network of the paper with normalised inputs"
    return same, differs + "." + _done(facts)


def _table1(plan, facts, table):
    return (
        "the first seven arrays are those of the paper.",
        "the other arrays are new; sizes are those of the first cube.",
    )


def _table2(plan, facts, table):
    same = "one row for each telescope; the columns paper_* are quoted from the text of the paper, and empty where it gives no value."
    return same, "depth and seeing are measured on the images of this run; assumed properties are listed."


def _table3(plan, facts, table):
    return "numbers of True and False of every cube.", "the text of the paper gives no numbers to compare with."


def _table4(plan, facts, table):
    where = f"; the counts are of {facts['cube']}, {facts['experiment']}" if facts.get("cube") else ""
    return "the four components.", f"the number of each is given{where}."


def _table5(plan, facts, table):
    same = "threshold, accuracy, precision, recall, F1, MCC and false positives of every cube, with the published values that are known."
    bound = pct(plan["confidence"], 0)
    lines = "; ".join(f"{name}: {PROTOCOLS[name]}" for name in plan["protocols"])
    differs = (
        f"one row for each seed, both networks, {bound} intervals from a bootstrap over images. Protocols: {lines}."
    )
    return same, differs + (_done(facts) if "planned" in facts else "")
