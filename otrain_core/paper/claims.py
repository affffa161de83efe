"""The claims of the paper, compared with the tables of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.io import read_table

PUBLISHED = Path(__file__).with_name("published.csv")
CLAIM_COLUMNS = (
    "claim",
    "published",
    "source",
    "experiment",
    "protocol",
    "ours",
    "ours_low",
    "ours_high",
    "cubes",
    "cubes_planned",
    "seeds",
    "reproduced",
    "why",
)
RANDOM_MCC = 0.2  # a classifier with a lower MCC is called random
GAPS = {  # columns of the table of Fig. 11, and the definition of each gap
    "fit_minus_validation": "definition of the paper: last epoch, train with dropout as Keras logs it",
    "train_minus_validation": "kept epoch, dropout off",
}
SHOWN = {"accuracy": (100, 1, " %"), "fp_share": (100, 1, " %"), "mcc": (1, 3, ""), "threshold": (1, 2, "")}


def read_published() -> pd.DataFrame:
    """Values that the text of Makhlouf et al. (2022) states: cube, quantity, low, high, unit, source."""
    return read_table(PUBLISHED)


def published_value(cube: str, quantity: str) -> dict[str, Any]:
    """One published value (low, high, unit, source), or an empty dictionary if the paper does not state it."""
    table = read_published()
    found = table[(table["cube"] == cube) & (table["quantity"] == quantity)]
    return found.iloc[0].to_dict() if len(found) else {}


def gap_knee(table: pd.DataFrame, *, limit: float, column: str = "train_minus_validation") -> pd.DataFrame:
    """Find the size of the training set from which the accuracy gap stays under a limit.

    Parameters
    ----------
    table : pandas.DataFrame
        telescope, pipeline, n_images (of the cube), experiment, n_train and column; one row for each training.
    limit : float
        Limit of the absolute value of the gap, averaged over seeds.
    column : str
        Name of the gap, one of `GAPS`.

    Returns
    -------
    pandas.DataFrame
        telescope, pipeline, n_images, experiment; sizes, the number of sizes; stays_under_from, the smallest size from which
        all are under the limit (NaN if the largest size is not); last_over, the largest size over the limit (NaN: none).
    """
    rows, names = [], ("telescope", "pipeline", "n_images", "experiment")
    for keys, mine in table.groupby(list(names), sort=False, dropna=False):
        gap = mine.groupby("n_train")[column].mean().abs().dropna().sort_index()
        over = gap.index[gap >= limit]
        last_over = float(over.max()) if len(over) else np.nan
        under = gap.index[gap.index > last_over] if len(over) else gap.index
        row = dict(zip(names, keys, strict=True)) | {"sizes": len(gap)}
        rows.append(row | {"stays_under_from": float(under.min()) if len(under) else np.nan, "last_over": last_over})
    return pd.DataFrame(rows, columns=[*names, "sizes", "stays_under_from", "last_over"])


def list_claims(
    summary: pd.DataFrame, plan: Mapping[str, Any], *, data_size: pd.DataFrame, size: pd.DataFrame
) -> pd.DataFrame:
    """List the claims of the paper, for both networks and protocols: reproduced or not, our number and why.

    Parameters
    ----------
    summary : pandas.DataFrame
        As from `otrain_core.evaluation.summary.build_summary`.
    plan : mapping
        As from `otrain_core.paper.plan.plan_paper`.
    data_size, size : pandas.DataFrame
        Tables of Figs. 11 and 12, empty if a study was not run.

    Returns
    -------
    pandas.DataFrame
        `CLAIM_COLUMNS`. Values are means over seeds, given as the range over the cubes; reproduced is yes, no, partly or
        unknown (not all of the paper's cubes are done).
    """
    rows = []
    for experiment in plan["experiments"]:
        for protocol in plan["protocols"]:
            mine = summary[(summary["experiment"] == experiment) & (summary["protocol"] == protocol)]
            about = {"experiment": experiment, "protocol": protocol, "cubes_planned": len(plan["cubes"])}
            rows += [_over_cubes(mine, name) | about for name in ("accuracy", "mcc", "fp_share", "threshold")]
        about = {"experiment": experiment, "protocol": "by-image"}
        rows += [_knee_claim(_of(data_size, experiment), len(plan["cubes"]), gap) | about for gap in GAPS]
        rows.append(_size_claim(_of(size, experiment)) | about)
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))


def _of(table: pd.DataFrame, experiment: str) -> pd.DataFrame:
    return table if table.empty else table[table["experiment"] == experiment]


CLAIMS = {
    "accuracy": "accuracy of 93 to 98 %",
    "mcc": "MCC of 0.84 to 0.99",
    "fp_share": "false positives under 2 % of the scored set",
    "threshold": "best thresholds of 0.34 to 0.55",
}


def _over_cubes(mine: pd.DataFrame, name: str) -> dict[str, Any]:
    """Check a claim on one number of every cube."""
    table = read_published()
    own = table[(table["quantity"] == name)]
    low, high = own["low"].min(), own["high"].max()
    scale, digits, unit = SHOWN[name]
    shown = (
        f"{scale * low:.{digits}f} to {scale * high:.{digits}f}{unit}"
        if np.isfinite(low)
        else f"under {scale * high:g}{unit}"
    )
    means = mine.groupby(["telescope", "pipeline"])[name].mean().dropna()
    row: dict[str, Any] = {"claim": CLAIMS[name], "published": shown, "source": _sources(own["source"])}
    row |= {"cubes": len(means), "seeds": int(mine.loc[mine[name].notna(), "seed"].nunique())}
    if means.empty:
        return row | {"reproduced": "unknown", "why": "no training is evaluated yet"}
    row |= {"ours_low": means.min(), "ours_high": means.max()}
    row["ours"] = f"{scale * means.min():.{digits}f} to {scale * means.max():.{digits}f}{unit}"
    # A better value than the paper's does not contradict the claim; a threshold is neither better nor worse.
    fails, below, within = {
        "fp_share": (means >= high, "not under the limit", "every cube is under the limit"),
        "threshold": ((means < low) | (means > high), "outside the range", "every cube is within the range"),
    }.get(name, (means < low, "below the range", f"no cube is below {scale * low:g}{unit}"))
    row["reproduced"] = "no" if fails.all() else "partly" if fails.any() else "yes"
    names = ", ".join(f"{'/'.join(cube)} {scale * value:.{digits}f}{unit}" for cube, value in means[fails].items())
    return row | {"why": f"{below}: {names}" if names else within}


def _sources(places: pd.Series) -> str:
    """Join the places in the paper where values are stated: Figs. 10, A.1 instead of Fig. 10; Fig. A.1."""
    places = list(dict.fromkeys(places))
    if len(places) > 1 and all(place.startswith("Fig. ") for place in places):
        return "Figs. " + ", ".join(place.removeprefix("Fig. ") for place in places)
    return "; ".join(places)


def _knee_claim(table: pd.DataFrame, planned: int, column: str) -> dict[str, Any]:
    """Check the claim on the accuracy gap, for one definition of the gap."""
    limit, knee = published_value("all", "accuracy_gap")["high"], published_value("all", "knee")
    row: dict[str, Any] = {
        "claim": f"accuracy gap over 2 % below 5,000 cutouts, under it above ({GAPS[column]})",
        "published": f"{knee['low']:g} {knee['unit']}",
    }
    row |= {"source": knee["source"], "cubes_planned": planned, "cubes": 0, "seeds": 0}
    table = table if table.empty else table[table[column].notna()]
    if table.empty:
        return row | {"reproduced": "unknown", "why": "the study of the size of the training set is not done"}
    knees = gap_knee(table, limit=limit, column=column)
    row |= {"cubes": len(table.groupby(["telescope", "pipeline"])), "seeds": int(table["seed"].nunique())}
    starts = knees["stays_under_from"]
    row |= {"ours_low": starts.min(), "ours_high": starts.max() if starts.notna().all() else np.nan}
    never = int(starts.isna().sum())
    row["ours"] = (
        f"under it from {_spread(starts.dropna(), 'g')} cutouts" if starts.notna().any() else "at no size tried"
    )
    row["ours"] += (
        f"; over it at the largest size in {never} of {len(knees)} curves" if never and starts.notna().any() else ""
    )
    means = table.groupby(["telescope", "pipeline", "n_images", "n_train"], dropna=False)[column].mean()
    sizes = means.index.get_level_values("n_train")
    above, below = (means[sizes >= knee["low"]].abs(), means[sizes < knee["low"]].abs())
    under, over = int((above < limit).sum()), int((below >= limit).sum())
    # Validation better than train is caused by dropout or by few images, not by the overfitting that the paper means.
    negative = int((means[sizes < knee["low"]] <= -limit).sum())
    row["why"] = (
        f"{under} of {len(above)} points at {knee['low']:g} cutouts or more are under {100 * limit:g} %,"
        f" {over} of {len(below)} points with fewer are over it (gaps from {_spread(100 * means, '.1f')} %)"
    )
    row["why"] += f", {negative} of these because validation is better than train" if negative else ""
    if above.empty:  # only the lower half of the claim is tested: it can contradict the claim, but not confirm it
        row["reproduced"] = "unknown" if over == len(below) else "partly" if over else "no"
        return row | {"why": f"{row['why']}; the largest size tried is {table['n_train'].max():g}"}
    row["reproduced"] = {2: "yes", 1: "partly", 0: "no"}[(under == len(above)) + (over == len(below))]
    if knees["last_over"].notna().any():
        row["why"] += f"; the largest size over it is {knees['last_over'].max():g}"
    return row


def _size_claim(table: pd.DataFrame) -> dict[str, Any]:
    published = published_value("all", "largest_cutout")
    limit = published["high"]
    row: dict[str, Any] = {
        "claim": "collapse of the classifier for cutouts above 48 px",
        "published": f"{limit:g} {published['unit']}",
    }
    row |= {"source": published["source"], "cubes_planned": 1, "cubes": 0, "seeds": 0}
    if table.empty:
        return row | {"reproduced": "unknown", "why": "the study of the size of the cutouts is not done"}
    keys = ["telescope", "pipeline", "n_images"]
    row |= {"cubes": 1, "seeds": int(table.groupby(keys, dropna=False)["seed"].nunique().max())}
    parts, texts = [], []
    for (*_, n_images), part in table.groupby(keys, dropna=False, sort=False):
        means = part.groupby("value")["mcc"].mean()
        above, below = means[means.index > limit], means[means.index <= limit]
        if not above.empty and not below.empty:
            parts.append(above)
            texts.append((n_images, f"MCC {_spread(above)} above {limit:g} px, {_spread(below)} up to it"))
    if not parts:
        return row | {"reproduced": "unknown", "why": f"no sizes on both sides of {limit:g} px are done"}
    above = pd.concat(parts)
    row |= {"ours_low": above.min(), "ours_high": above.max()}
    row["ours"] = texts[0][1] if len(texts) == 1 else "; ".join(f"cube of {n:g} images: {text}" for n, text in texts)
    row["reproduced"] = "yes" if (above < RANDOM_MCC).all() else "partly" if (above < RANDOM_MCC).any() else "no"
    row["why"] = (
        f"the MCC is below {RANDOM_MCC:g} (random) at {int((above < RANDOM_MCC).sum())} of {len(above)} sizes above {limit:g} px"
    )
    return row


def _spread(values: Sequence[float] | pd.Series, shown: str = ".3f") -> str:
    low, high = min(values), max(values)
    return f"{low:{shown}}" if low == high else f"{low:{shown}} to {high:{shown}}"


def complete(claims: pd.DataFrame) -> pd.DataFrame:
    """Change the verdict to unknown, with the reason, where cubes are still missing."""
    claims = claims.copy()
    short = (claims["cubes"] < claims["cubes_planned"]) & (claims["reproduced"] != "unknown")
    so_far = claims.loc[short, "reproduced"] + " so far"
    claims.loc[short, "why"] = [
        f"{text}: {why} ({done} of {planned} cubes done)"
        for text, why, done, planned in zip(
            so_far, *(claims.loc[short, name] for name in ("why", "cubes", "cubes_planned")), strict=True
        )
    ]
    claims.loc[short, "reproduced"] = "unknown"
    return claims
