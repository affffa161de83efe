"""What the report says of one cube: which training is its best."""

from pathlib import Path

import pandas as pd

from otrain_core.evaluation.summary import summary_row
from otrain_core.report.one_cube import best_run
from tests.unit.synthetic_results import write_results


def test_the_best_is_chosen_on_validation(tmp_path):
    made = write_results(tmp_path, experiments=("otrain2",))
    seeds = [folder for folder in made["runs"] if not folder.endswith("random")]
    summary = pd.DataFrame([summary_row(folder) for folder in seeds])
    other = {**summary.iloc[0].to_dict(), "seed": 2, "mcc": summary["mcc"].iloc[0] + 0.05, "mcc_validation": -0.5}
    second = Path(seeds[0]).with_name("seed2")
    table = pd.concat([summary, pd.DataFrame([other])], ignore_index=True)
    assert best_run([second, Path(seeds[0])], table, None) == Path(seeds[0])
    table["mcc_validation"] = [-0.5, 0.9]
    assert best_run([second, Path(seeds[0])], table, None) == second
    assert best_run([second, Path(seeds[0])], table, {"experiment": "otrain2", "seed": "1"}) == Path(seeds[0])
