"""The first screen: the verdict in words, the rows beside it, and terms that lead to the glossary."""

from pathlib import Path

import pytest

from otrain_core import io
from otrain_core.plan.config import GateOptions
from otrain_core.report import opening as page

GATE = GateOptions()
GOOD = {
    **{"mcc": 0.93, "mcc_low": 0.91, "mcc_high": 0.95, "fp_share": 0.01, "n_images": 12, "n_true": 400, "n_false": 500},
    **{"recall": 0.97, "recall_low": 0.95, "recall_high": 0.98, "fpr": 0.02, "fpr_low": 0.01, "fpr_high": 0.03},
    **{"baseline_mcc": 0.8, "gain": 0.13, "gain_low": 0.1, "gain_high": 0.16, "threshold": 0.5},
    **{"shipped_mcc": 0.9, "shipped_gain": 0.03, "shipped_gain_low": 0.01, "shipped_gain_high": 0.05},
}


def made(folder, **changes):
    folder = folder / "a/b/otrain2/seed1"
    folder.mkdir(parents=True)
    metrics = {"headline": GOOD | changes, "shipped": {"mcc": 0.9, "recall": 0.9}, "baseline": {"mcc": float("nan")}}
    io.write_json(folder / "metrics.json", metrics)
    part = {"simulated": True, "trainings": [{"best": True, "figures": {"panels": "data:"}}]}
    return page.opening(part, folder, GATE)


def test_a_good_model_is_usable_and_better_than_both(tmp_path):
    found = made(tmp_path)
    assert found["passes"] and found["usable"] == "Usable."
    numbers, better = found["sentences"]
    assert numbers == (
        "On 12 simulated images that it never saw, with 400 real and 500 bogus candidates, it accepts 97.0 [95.0, 98.0] %"
        " of the real ones and 2.0 [1.0, 3.0] % of the bogus; MCC 0.930 [0.910, 0.950]."
    )
    assert better == (
        "It is better than fixed cuts (+0.130 [0.100, 0.160] in MCC) and better than the shipped model"
        " (+0.030 [0.010, 0.050] in MCC)."
    )
    # Fixed cuts without a score have no row.
    assert [row["name"] for row in found["rows"]] == ["model", "universal"] and found["panels"] == "data:"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_images": 2}, "Do not use it yet: the test set is too small: 2 of "),
        ({"gain_low": -0.1}, "Do not use it yet: MCC 0.930 does not beat fixed cuts"),
        ({"shipped_gain": -0.1, "shipped_gain_low": -0.2}, "use the shipped model: otrain classify without -m."),
    ],
)
def test_what_fails_the_gate_is_not_called_usable(tmp_path, changes, words):
    found = made(tmp_path, **changes)
    assert not found["passes"] and words in found["usable"]


def test_no_training_is_no_model():
    assert page.opening({}, None, GATE)["usable"] == "No model yet."


def test_terms_lead_to_entries_of_the_one_glossary():
    assert Path("docs/glossary.md").resolve() == page.GLOSSARY.resolve()
    link = page.term("Recall", "recall")
    assert link.startswith('<a class="term" href="#word-recall" title="Share of the real') and link.endswith(
        ">Recall</a>"
    )
    (entry,) = page.words_of(f"<p>{link}</p>")
    assert entry["word"] == "recall" and entry["text"] == page.glossary()["recall"]
    assert page.glossary()["cutout"] == page.glossary()["stamp"] and "small square" in page.glossary()["stamp"]
    assert page.glossary()["True"] == page.glossary()["False"] and "`" not in "".join(page.glossary().values())
    with pytest.raises(KeyError, match="no such word"):
        page.term("no such word")
