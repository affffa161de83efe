"""Which steps an edit of the library reruns: digests of all scripts before and after, and what Snakemake plans."""

import re
import shutil

import pytest

from otrain_core.jobs import digest

NIGHT = {"night/archive"}  # it searches images as the steps do


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    """A copy of the clone's code that tests may edit."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("workflow", "scripts", "otrain_core", "config"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def digests(clone):
    steps = [path.relative_to(clone / "scripts").with_suffix("") for path in sorted(clone.glob("scripts/*/*.py"))]
    return {str(step): digest.code_digest(str(step), root=clone) for step in steps if step.name != "__init__"}


def test_every_rule_has_the_digest_of_its_script(root):
    n = 0
    for path in sorted((root / "workflow/rules").glob("*.smk")):
        for text in re.split(r"\n(?=rule |use rule )", path.read_text()):
            scripts, codes = re.findall(r"scripts/([\w/]+)\.py", text), re.findall(r'code_of\("([\w/]+)"\)', text)
            if scripts:  # `use rule` inherits the script
                assert scripts == codes, f"{path.name}: {text.splitlines()[0]}"
            n += len(codes)
    assert n >= 25


@pytest.mark.parametrize(
    ("edited", "steps"),
    [
        ("report/templates/report.html", {"report/report", "paper/paper", *NIGHT}),  # the paper's page is such a report
        ("report/templates/report.css", {"report/report", "paper/paper", *NIGHT}),
        ("networks/progress.py", set()),
        ("networks/devices.py", set()),
        ("networks/checkpoint.py", set()),
        ("jobs/job.py", set()),
        ("registry/live.py", set()),  # a preview
        ("registry/pyfunc.py", {"registry/track"}),
        ("labelling/page.py", set()),
        ("classify/monitor.py", NIGHT),
        ("sky/simulate.py", {"sky/simulate", "chain/image"}),
        ("sky/artefacts.py", {"sky/simulate", "chain/image", "networks/train_finder", "studies/finder"}),
        (
            "images/kernel.py",
            {
                "images/subtract",
                "candidates/detect",
                "candidates/cutouts",
                "chain/image",
                "networks/train_finder",
                "studies/finder",
                *NIGHT,
            },
        ),
        ("images/zogy.py", {"images/subtract", "chain/image", "studies/finder", *NIGHT}),
        ("paper/published.csv", {"paper/data", "paper/figures", "paper/paper", "paper/tables"}),
    ],
)
def test_an_edit_reruns_the_steps_that_use_the_module(clone, edited, steps):
    path = clone / "otrain_core" / edited
    before, text = digests(clone), path.read_text()
    path.write_text(text + "\n")
    try:
        after = digests(clone)
    finally:
        path.write_text(text)
    assert {step for step in before if after[step] != before[step]} == steps


@pytest.mark.parametrize(
    ("step", "most"),
    [("cubes/split", 4), ("candidates/crossmatch", 7), ("evaluation/summary", 10), ("registry/track", 17)],
)
def test_no_step_hangs_on_more_modules_than_it_needs(root, step, most):
    modules = [path for path in digest.code_files(step, root=root) if path.suffix == ".py"]
    assert len(modules) <= most, [str(path.relative_to(root)) for path in modules]
