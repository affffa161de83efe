"""The DAG as planned: jobs of the shipped configurations, profiles, lint and format."""

import ast
import collections
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

BIN = Path(sys.executable).parent


def snakemake(root, *arguments, workdir=None, check=True, env=None, timeout=300):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "workflow/Snakefile"), *arguments]
    result = subprocess.run(
        command, cwd=workdir or root, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def planned_jobs(text):
    """Job counts from Snakemake's table."""
    table = text.split("Job stats:")[1].split("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, flags=re.M)}


def test_default_run(root, tmp_path):
    """`snakemake --cores 2` plans the whole DAG; the list of jobs is part of the contract."""
    jobs = planned_jobs(snakemake(root, "--cores", "2", "-n", "--directory", str(tmp_path)).stdout)
    n_images = jobs.pop("simulate")
    assert n_images >= 10
    per_image = ("psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts")
    assert {jobs.pop(name) for name in per_image} == {n_images}
    golden = {
        "cube": 1,
        "split": 1,
        "train": 2,
        "shipped": 1,
        "evaluate": 2,
        "explain": 2,
        "export_onnx": 2,
        "summary": 1,
        "track": 1,
        "report": 1,
        "all": 1,
    }
    assert jobs == golden


def test_fused_images_are_one_job_each_and_parts_of_a_telescope_one_job(root, tmp_path):
    """The same targets, with the rules of the single steps in one."""
    for per_job, n in ((1, 30), (4, 8)):
        values = f"run={{'fused': True, 'images_per_job': {per_job}}}"
        result = snakemake(root, "--cores", "2", "-n", "--directory", str(tmp_path), "--config", values)
        jobs = planned_jobs(result.stdout)
        assert jobs.pop("image") == n
        assert not {"simulate", "psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts"} & set(jobs)
        assert (jobs["cube"], jobs["train"], jobs["report"]) == (1, 2, 1)


def test_fused_images_of_two_pipelines_share_their_sky(root, tmp_path):
    config = tmp_path / "two.yaml"
    config.write_text(
        "pipelines: {other: {detect: {threshold: 6}}}\nrun: {cubes: [demo/builtin, demo/other], fused: true}\n"
    )
    jobs = planned_jobs(snakemake(root, "-n", "--directory", str(tmp_path), "--configfile", str(config)).stdout)
    assert (jobs["simulate"], jobs["image"]) == (30, 60)


def test_an_archive_is_planned_in_jobs_of_many_images(root, tmp_path):
    """`snakemake --profile slurm --configfile archive.yaml search`: a job for every three images, and nothing is trained."""
    for k in range(7):
        (tmp_path / f"im{k}.fits").write_bytes(b"")
    config = tmp_path / "archive.yaml"
    values = {"images": f"{tmp_path}/*.fits", "references": "ref.fits", "images_per_job": 3}
    config.write_text(yaml.safe_dump({"archive": values}))
    command = ["-n", "--directory", str(tmp_path / "run"), "--configfile", str(config), "--", "search"]
    assert planned_jobs(snakemake(root, "--profile", "slurm", *command).stdout) == {
        "archive": 3,
        "nights": 1,
        "search": 1,
    }


def test_both_protocols(root, tmp_path):
    config = tmp_path / "both.yaml"
    config.write_text("run: {protocols: [by-image, random], experiments: [paper], seeds: [1, 2]}\n")
    jobs = planned_jobs(snakemake(root, "-n", "--directory", str(tmp_path), "--configfile", str(config)).stdout)
    assert jobs["train"] == jobs["train_random"] == jobs["evaluate_random"] == 2


def test_slurm_profile(root):
    """The literal command of the README, from the root of the clone."""
    result = snakemake(root, "--profile", "slurm", "-n", "--forceall")
    assert len(re.findall(r"Group job image \(", result.stdout)) == 30  # one job of the cluster for each image
    assert planned_jobs(result.stdout)["train"] == 2
    rules = re.split(r"\n(?=rule )", result.stdout)
    trainings = [text for text in rules if text.startswith("rule train:")]
    assert all("slurm_partition=gpu" in text and "gpu=1" in text for text in trainings) and len(trainings) == 2
    others = [text for text in rules if text.startswith("rule") and not text.startswith("rule train:")]
    assert all("slurm_partition=cpu" in text and "gpu=" not in text for text in others)


def test_every_training_has_the_partition_of_gpus(root):
    """What asks for a GPU in its rule stands under set-resources of the Slurm profile, and nothing else does."""
    asks = set()
    for path in (root / "workflow/rules").glob("*.smk"):
        for text in re.split(r"\n(?=rule |use rule )", path.read_text()):
            if re.search(r"^        gpu=", text, flags=re.M):
                asks.add(re.match(r"rule (\w+)", text)[1])
    profile = yaml.safe_load((root / "slurm/config.yaml").read_text())
    assert set(profile["set-resources"]) == asks | {"train_random"}
    assert {settings["slurm_partition"] for settings in profile["set-resources"].values()} == {"gpu"}


def test_hatp32_needs_only_its_sheet(root, shared_data):
    result = snakemake(root, "-n", "--configfile", "config/hatp32.yaml", "--forceall")
    jobs = planned_jobs(result.stdout)
    assert jobs["reference"] == 1
    assert jobs["psf"] + 20 <= 102


def test_a_key_that_stands_twice_is_told(root, tmp_path):
    (tmp_path / "my.yaml").write_text("seed: 1\nrun: {seeds: [1]}\nseed: 2\n")
    command = ["-n", "--directory", str(tmp_path), "--configfile", str(tmp_path / "my.yaml")]
    result = snakemake(root, *command, check=False)
    assert result.returncode != 0
    assert "my.yaml: not YAML: line 3: 'seed' appears twice" in result.stdout + result.stderr


@pytest.fixture
def pretend_programs(tmp_path):
    """A PATH on which the programs of gmadet and stdpipe seem to be installed: a dry run only asks whether."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("source-extractor", "sex", "psfex", "scamp", "SWarp", "swarp", "hotpants"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return {"PATH": os.pathsep.join([os.environ["PATH"], str(folder)])}


def test_the_paper(root, tmp_path, pretend_programs):
    """`snakemake paper`: all figures and tables, the trainings of both protocols and of both of its studies (32 px is trained anyway)."""
    command = ["-n", "--directory", str(tmp_path / "run"), "--configfile", "config/paper.yaml"]
    jobs = planned_jobs(snakemake(root, *command, "--", "paper", env=pretend_programs).stdout)
    assert (jobs["paper_data"], jobs["paper_figures"], jobs["paper_tables"], jobs["paper"]) == (17, 17, 5, 1)
    assert (jobs["cube"], jobs["sweep"], jobs["train_random"]) == (5, 2, 5 * 4 * 3)
    assert jobs["train"] == jobs["evaluate"] == 5 * 4 * 3 + 6 * 3 * 3 + 6 * 2 * 5 * 3
    assert not {"track", "report", "transfer", "pool", "finetune"} & set(jobs)


def test_the_paper_at_reduced_size(root, tmp_path, pretend_programs):
    """The quick switch: one seed, eight images of each telescope, and short studies."""
    command = [
        "-n",
        "--directory",
        str(tmp_path / "run"),
        "--configfile",
        "config/paper.yaml",
        "config/paper_quick.yaml",
    ]
    jobs = planned_jobs(snakemake(root, *command, "--", "paper", env=pretend_programs).stdout)
    # The two pipelines of JAST share its sky; the jobs of the others' images make their own.
    assert (jobs["simulate"], jobs["image"], jobs["paper_figures"]) == (8, 5 * 8, 17)
    assert jobs["train"] == 5 * 2 + 4 * 2 + 3 * 2 * 5


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("cost", used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def cost_of_planning(root, workdir, n_images, env):
    """Jobs, CPU seconds and peak memory [MB] of a dry run by the command of `make paper`, with so many images a telescope."""
    workdir.mkdir()
    more = {name: {"sky": {"n_images": n_images}} for name in ("JAST", "TACA", "FRAM-CTA-N", "TCA")}
    (workdir / "more.yaml").write_text(yaml.safe_dump({"telescopes": more}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "workflow/Snakefile"), "--cores", "2"]
    command += ["--scheduler", "greedy", "--scheduler-subsample", "20", "--rerun-incomplete", "--quiet", "rules", "-n"]
    command += ["--directory", str(workdir), "--configfile", "config/paper.yaml", str(workdir / "more.yaml")]
    # A process begins with the peak of the one that starts it: a small one stands between it and the tests.
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], cwd=root, capture_output=True, text=True, env={**os.environ, **env}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    plan, _, usage = result.stdout.rpartition("cost ")
    cpu, memory = map(float, usage.split())
    return planned_jobs(plan), cpu, memory * 1024 / 1e6


def test_planning_costs_by_the_job(root, tmp_path, pretend_programs):
    """Five cubes of 300 images with all studies: planned in 10 s and a third of a gigabyte, nothing in it quadratic."""
    few, cpu_few, _ = cost_of_planning(root, tmp_path / "few", 75, pretend_programs)
    many, cpu_many, memory = cost_of_planning(root, tmp_path / "many", 300, pretend_programs)
    assert (many["image"], many["cube"], many["pool"], many["sweep"]) == (5 * 300, 5, 5, 5)
    assert 2_500 < sum(many.values()) <= 3_500
    # What does not depend on the images, such as trainings, is in both; a quadratic part would show in the ratio.
    assert cpu_many / cpu_few < 1.5 * sum(many.values()) / sum(few.values())
    assert cpu_many < 40  # 9 s; more on cores that are busy with other things
    assert memory < 500


def test_the_estimate_runs_nothing(root, tmp_path, pretend_programs):
    """`make paper-estimate` prints jobs and hours, with what is published of earlier runs."""
    command = [sys.executable, "-m", "otrain_core.paper.estimate", "config/paper.yaml", "config/paper_quick.yaml"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, **pretend_programs})
    assert result.returncode == 0, result.stderr
    assert re.search(r"^image +40 +\d", result.stdout, flags=re.M)
    assert re.search(r"^total +\d+ +\d", result.stdout, flags=re.M)


def test_unknown_key_stops_before_any_work(root, tmp_path):
    result = snakemake(root, "-n", "--directory", str(tmp_path), "--config", "sed=3", check=False)
    assert result.returncode != 0
    assert "sed: unknown key; did you mean 'seed'" in result.stdout + result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "workflow"],
    ],
    ids=" ".join,
)
def test_style(root, command):
    result = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_snakemake_lint(root):
    """Nothing but what the workflow does on purpose: one environment for all rules, made by `make setup`."""
    result = snakemake(root, "--lint", "text", check=False)
    findings = collections.Counter(re.findall(r"\* (.+?):", result.stdout + result.stderr))
    allowed = {"Specify a conda environment or container for each rule."}
    assert {name.rstrip(".") for name in findings} <= {name.rstrip(".") for name in allowed}, findings


def test_every_step_has_its_rule_script_module_and_test(root):
    """One step: one rule, one script, one module, one test file, of one name, in one wing."""
    steps = set()
    for path in (root / "workflow/rules").glob("*.smk"):
        names = re.findall(r"^rule (\w+):", path.read_text(), flags=re.M)
        # In the wing paper the rule bears the name of the wing, too: paper_figures is the step figures.
        steps |= {(path.stem, name.removeprefix(f"{path.stem}_")) for name in names}
    steps.remove(("sky", "fetch_catalogue"))  # the script of catalogue, where there is a network
    scripts = {(path.parent.name, path.stem) for path in (root / "scripts").glob("*/*.py")}
    assert steps == scripts
    for wing, name in steps:
        assert (root / f"otrain_core/{wing}/{name}.py").is_file(), (wing, name)
        assert (root / f"tests/unit/{wing}/test_{name}.py").is_file(), (wing, name)
        text = (root / f"scripts/{wing}/{name}.py").read_text()
        assert "with job_logging(snakemake):" in text, (wing, name)
        assert len(text.splitlines()) <= 85, (wing, name)


NEVER = ("tensorflow", "keras", "mlflow", "matplotlib", "sklearn", "galsim", "stdpipe", "photutils", "onnxruntime")
PIXELS = ("sky/", "stars/", "images/", "chain/", "night/archive", "candidates/detect", "candidates/cutouts")
PIXELS += ("networks/train_finder", "studies/finder")  # steps that read images
NO_TABLE = ("stars/psf", "images/prepare", "sky/survey_reference", "cubes/cube", "networks/export_onnx")


@pytest.mark.parametrize(
    ("chosen", "heavy"),
    [
        (
            lambda step: step != "evaluation/evaluate",
            NEVER,
        ),  # which begins with Keras; others import it after their checks
        (lambda step: not step.startswith((*PIXELS, "evaluation/evaluate")), ("astropy", "scipy")),
        (lambda step: step in NO_TABLE, ("pandas",)),
    ],
    ids=["all steps", "steps without images", "steps without tables"],
)
def test_steps_begin_without_what_they_do_not_need(root, chosen, heavy):
    """Every step is a process; what is imported within functions is held by the banned imports of Ruff."""
    scripts = {str(path.relative_to(root / "scripts").with_suffix("")): path for path in root.glob("scripts/*/*.py")}
    imports = [
        ast.unparse(node)
        for step in sorted(filter(chosen, scripts))
        for node in ast.walk(ast.parse(scripts[step].read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(imports) > 10
    code = [*imports, "import sys", f"sys.exit(', '.join(name for name in {heavy} if name in sys.modules) or 0)"]
    result = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_start_after_a_kill_names_make_resume(root, tmp_path):
    """The folder is still locked, and the note of the run is there."""
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/report.html\n")
    note = {"arguments": ["--cores", "2"], "typed_in": str(tmp_path), "executor": "local", "host": platform.node()}
    note |= {"pid": 2**22 + 1, "started": 1.0, "mark": "gone"}
    (tmp_path / ".snakemake/otrain_run.json").write_text(json.dumps(note))
    refused = snakemake(root, "--cores", "1", "--directory", str(tmp_path), check=False)
    assert refused.returncode == 1
    command = f"python -m otrain_core.jobs.resume --directory {tmp_path}"
    assert (
        f"an earlier run in this folder was killed; `{command}` stops its remaining jobs and processes, and resumes it"
        in refused.stderr
    )
    assert "--unlock" not in refused.stderr
