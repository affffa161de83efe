"""Run every command of the README and the documentation, page by page and in order, on small simulated files."""

import contextlib
import glob
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.arrays import write_arrays
from otrain_core.classify.shipped import shipped_file
from otrain_core.cli.main import main
from otrain_core.cli.parser import build_parser
from otrain_core.registry.records import records_digest
from otrain_core.registry.store import open_store
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_results import write_results
from tests.workflow.test_dry_run import snakemake
from tools.publish import quoting

# Arguments that make a command short, or make it end.
ADDED = {
    "otrain example": ["--frames", "2", "--wcs"],
    "otrain night": ["--once"],
    "otrain train": ["--epochs", "1", "--threads", "1"],
    "otrain label serve": ["--port", "0", "--json"],
}
ALLOWED = {"otrain monitor": (0, 3, 4), "otrain check": (0, 1)}  # exit statuses that are answers
# Commands that are not fully run: what is done instead, and why.
NOT_RUN = {
    "otrain train nights": "understood: needs labels that people gave; tests/unit/cli/test_verbs.py trains",
    "otrain search tonight.fits --reference reference.fits --finder": "understood: needs a trained detector; "
    "tests/unit/night/test_search.py",
    "otrain run": "planned (-n): tests/e2e/test_ten_frames.py runs it",
    "snakemake": "planned (-n): runs of tests/e2e and tests/cluster do the work",
    "make": "the target is planned (make -n): hours, a terminal, or the whole set-up",
    "python -m otrain_core.jobs.resume": "understood (--help): tests/unit/jobs and tests/cluster run it",
    "python -m tools": "understood (--help): minutes to hours on large data",
    "pip": "installs: tests/e2e/test_wheel.py builds the wheel",
    "conda": "installs",
    "mamba": "installs",
    "pre-commit": "installs; tests/workflow/test_docs.py checks its hooks",
    "git": "the repository's address is the reader's",
    "source": "belongs to the shell of the reader",
    "export": "belongs to the shell of the reader",
    "tmux": "belongs to the shell of the reader",
    "$EDITOR": "belongs to the shell of the reader",
    "srun": "needs a cluster: tests/cluster",
    "sudo": "changes the machine: tests/e2e/test_mlflow_server.py",
    "ssh": "needs another machine",
}


def blocks(page):
    """Commands of a page, block by block; a command inside the text is a block of its own."""
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```([a-z]*)[^\n]*\n(.*?)^```", text, flags=re.S | re.M):
        if language in ("", "bash", "sh"):
            lines = re.sub(r"\\\n", " ", block).splitlines()
            yield [part.strip() for line in lines for part in re.split(r"\s#\s", line)[0].split("&&") if part.strip()]
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    for line in re.findall(r"`((?:otrain|make|snakemake) [^`]+)`", text):
        if "..." not in line and line.count(" ") > 2:
            yield [line]


def pages(root):
    return [page for page in quoting(root) if any(blocks(page))]


@pytest.fixture(scope="module")
def pantry(tmp_path_factory):
    """A folder with small simulated versions of all files named on the pages."""
    folder = tmp_path_factory.mktemp("pantry")
    with contextlib.chdir(folder):
        assert main(["example", "nights", "--frames", "2", "--wcs"]) == 0
        frames, old = sorted(glob.glob("nights/2026-03-05/*.fit")), sorted(glob.glob("nights/2026-02-11/*.fit"))
        for name in ("incoming", "refs", "old", "night", "more"):
            Path(name).mkdir()
        shutil.copy(frames[0], "image.fits")
        shutil.copy(frames[1], "incoming/second.fits")
        for path in old[:3]:
            shutil.copy(path, Path("old", f"{Path(path).stem}.fits"))
        for name in ("ref.fits", "refs/ref.fits"):
            shutil.copy(old[3], name)
        assert main(["search", "image.fits", "--reference", "ref.fits", "-o", "made", "--keep-difference"]) == 0
        made = next(iter(glob.glob("made/*diff*.fits*")))
        with fits.open(made) as hdus:
            data, header = next((hdu.data, hdu.header) for hdu in hdus if hdu.data is not None and hdu.data.ndim == 2)
        fits.PrimaryHDU(data.astype(np.float32), header).writeto("diff.fits")
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data.astype(np.float32))]).writeto("diff.fits.fz")
        _tables(folder)
        _models(folder)
    return folder


def _tables(folder):
    cube = make_cube(160)
    write_arrays("made.npz", cube)
    for name in ("new.npz", "night.npz", "cube.npz"):
        shutil.copy("made.npz", name)
    assert main(["export", "made.npz", "-o", "cutouts"]) == 0
    for path in sorted(Path("cutouts").rglob("*.fits"))[:4]:
        shutil.copy(path, "night")
        shutil.copy(path, "more")
    Path("list.csv").write_text("x,y\n300,200\n500,400\n")
    np.save("differences.npy", cube["cube"][:20, ..., 0])
    np.save("psfs.npy", np.ones((20, 32, 32)))
    Path("my.yaml").write_text("run: {cubes: [demo/builtin]}\ntelescopes: {demo: {sky: {n_images: 4}}}\n")
    Path("group.yaml").write_text("filter_ids: [1]\ninstrument_id: 7\n")
    Path("archive.yaml").write_text("archive: {images: incoming/*.fits, references: refs/}\n")


def _models(folder):
    """Register models of three telescopes, all with the shipped network; TCA has three versions and an invented training."""
    write_results(folder / "results", telescope="TCA", experiments=("otrain2",), failed=())
    shutil.copy(shipped_file(), "model.onnx")
    client, _ = open_store(folder / "results/mlflow.db", folder / "results/mlartifacts")
    for telescope in ("TCA", "demo", "cecilia"):
        training, image = (Path("results", telescope, "builtin", name) for name in ("otrain2/seed1", "images/sim0001"))
        for name in (training, image):
            name.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped_file(), training / "model.onnx")
        shutil.copy(shipped_file().with_suffix(".keras"), training / "model.keras")
        shutil.copy("made.npz", image / "cutouts.npz")
        client.create_registered_model(f"otrain-{telescope}")
        tags = {"telescope": telescope, "pipeline": "builtin", "experiment": "otrain2", "seed": "1"}
        tags |= {"digest": records_digest(training), "protocol": "by-image", "mcc": "0.9", "mcc_validation": "0.9"}
        tags |= {"n_images": "9", "n_true": "90", "n_false": "90", "mcc_low": "0.8", "fp_share": "0.01"}
        for _ in range(3 if telescope == "TCA" else 1):
            client.create_model_version(f"otrain-{telescope}", source=str(training), tags=tags)
        client.set_registered_model_alias(f"otrain-{telescope}", "champion", "1")


@pytest.fixture
def desk(pantry, tmp_path, monkeypatch):
    """A new working directory with the files of the pantry, next to ``shared``."""
    folder = tmp_path / "desk"
    folder.mkdir()
    for path in pantry.iterdir():
        if path.name not in ("made", "made.npz", "results"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(pantry / "results", folder / "results")  # copied, because pages change it
    public = tmp_path / "shared/data/lco_difference"
    public.mkdir(parents=True)
    for name in ("diff_pydia_1.fits.fz", "diff_pydia_2.fits.fz"):
        (public / name).symlink_to(pantry / "diff.fits.fz")
    monkeypatch.chdir(folder)
    return folder


def names(root_pages):
    return [page.stem for page in root_pages]


PAGES = pages(Path(__file__).parents[2])


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_of_a_page(page, root, desk, monkeypatch):
    for block in blocks(page):
        if page.parent.name != "tutorials":  # a tutorial stays in its current folder
            os.chdir(desk)
        for line in block:
            variable = re.fullmatch(r"([A-Z]+)=(\S+)", line)
            if variable:
                monkeypatch.setenv(*variable.groups())
            elif line.startswith("cd "):
                os.chdir(line[3:]) if Path(line[3:]).is_dir() else None
            else:
                done(line, root, desk)


def done(line, root, desk):
    """Run a command as `ADDED` and `NOT_RUN` say; fail where it fails."""
    words = [word for text in shlex.split(line) for word in expanded(text)]
    left = any(line.startswith(known) for known in NOT_RUN)
    if words[0] == "otrain" and not left:
        return run_otrain(line, words)
    assert left, f"{line}: run it, or say why not"
    if words[:2] == ["otrain", "run"]:
        arguments = build_parser().parse_args(words[1:])
        planned(root, "--configfile", *arguments.config)
    elif words[0] == "otrain":
        build_parser().parse_args(words[1:])
    elif words[0] == "snakemake":
        planned(root, *[word for word in words[1:] if word != "-n"])
    elif words[0] == "make":
        result = subprocess.run(["make", "-n", *words[1:]], cwd=root, capture_output=True, text=True)
        assert result.returncode == 0, (line, result.stderr)
    elif words[:2] == ["python", "-m"]:
        result = subprocess.run([sys.executable, "-m", words[2], "--help"], cwd=root, capture_output=True, text=True)
        assert result.returncode == 0, (line, result.stderr)


def expanded(word):
    word = os.path.expandvars(word)
    return sorted(glob.glob(word)) or [word] if "*" in word else [word]


def run_otrain(line, words):
    verb = next((known for known in ADDED if f"{line} ".startswith(f"{known} ")), None)
    words = words[1:] + ADDED.get(verb, [])
    if verb == "otrain label serve":
        return serves(line, words)
    allowed = next((some for known, some in ALLOWED.items() if line.startswith(known)), (0,))
    if line.startswith("otrain models"):  # a new process, because MLflow caches the store of a relative path
        result = subprocess.run(
            [sys.executable, "-m", "otrain_core.cli.main", *words], capture_output=True, text=True, timeout=600
        )
        assert result.returncode in allowed, f"{line}: exit status {result.returncode}\n{result.stderr[-2000:]}"
        return
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            status = main(words)
        except SystemExit as error:
            status = error.code
    assert status in allowed, f"{line}: exit status {status}\n{said.getvalue()[-2000:]}"


def serves(line, words):
    """Check that a server prints its address, and stop it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "otrain_core.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert '"url"' in process.stdout.readline(), (line, process.stderr.read())
    finally:
        process.kill()
        process.communicate()


NOT_IN_PYTHON = {"finder": "needs a trained detector: tests/unit/classify/test_finder.py runs these calls"}

PLANNED: set[tuple[str, ...]] = set()


def planned(root, *words):
    """Do a dry run in the working directory, only once for commands on several pages."""
    if words not in PLANNED:
        here = [os.path.abspath(word) if word.endswith(".yaml") else word for word in words]
        snakemake(root, "-n", "--directory", os.getcwd(), *here)
        PLANNED.add(words)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_python_of_a_page(page, desk):
    if page.stem in NOT_IN_PYTHON:
        return
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M):
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})


def test_reasons_belong_to_commands_of_the_pages():
    lines = [line for page in PAGES for block in blocks(page) for line in block]
    assert len(lines) > 60
    for known in ("otrain run", "snakemake", "make", *ADDED):
        assert any(line.startswith(known) for line in lines), known
