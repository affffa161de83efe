"""Digest of the code that a step of the workflow runs."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

PACKAGE = "otrain_core"
IMPORTS = re.compile(
    r"^ *(?:from +([\w.]+) +import +(\([^)]*\)|.*)|import +(.*))", re.M
)  # module and names, or modules
COMMENT = re.compile("#.*")

# Modules whose text cannot change a result: messages, logs, the guards of reading, progress. The options of a step
# are in the parameters of its rule, so that the sections that describe them count by their values.
NEUTRAL = (
    "otrain_core",
    "otrain_core.errors",
    "otrain_core.programs",
    "otrain_core.safe",
    "otrain_core.jobs",
    "otrain_core.plan",
    "otrain_core.networks.checkpoint",
    "otrain_core.networks.devices",
    "otrain_core.networks.progress",
)
# And what cannot change the result of one step: a training that is watched on a server is the same training.
NEUTRAL_IN = {step: ("otrain_core.registry",) for step in ("networks/train", "networks/train_finder")}


def code_digest(script: str, *, root: str | Path | None = None) -> str:
    """Digest of a script and of all library code that it runs.

    Given to a rule as a parameter, so that editing a module reruns the steps that use it and no others.

    Parameters
    ----------
    script : str
        As wing/step (``networks/train``), without the ending.
    root : path-like, optional
        Root of the clone (default: where this library is).

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    root = Path(root) if root is not None else Path(__file__).parents[2]
    sha = hashlib.sha256()
    for path in (root / "scripts" / f"{script}.py", *code_files(script, root=root)):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:16]


def forget() -> None:
    """Read the files anew: they are read once in a process."""
    for function in (_text, _module, _imports, _data):
        function.cache_clear()


def code_files(script: str, *, root: Path) -> list[Path]:
    """Modules that a script imports, directly and through others, and the package data that they name, sorted.

    Imports inside functions count. Modules of `NEUTRAL` do not, nor what they alone import.
    """
    neutral = (*NEUTRAL, *NEUTRAL_IN.get(script, ()))
    found: set[Path] = set()
    queue = list(_imports(root / "scripts" / f"{script}.py", root))
    while queue:
        path = queue.pop()
        if path in found or _is_neutral(_name(path, root), neutral):
            continue
        found.add(path)
        queue += _imports(path, root)
    return sorted(found | {data for path in found for data in _data(path)})


def _is_neutral(name: str, neutral: tuple[str, ...]) -> bool:
    """Whether a module, or the wing it stands in, is in the list."""
    wings = [item for item in neutral if item.count(".") == 1]
    return name in neutral or any(name.startswith(f"{wing}.") for wing in wings)


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache  # every job of a cluster starts Snakemake twice, and that asks for dozens of digests
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def _imports(path: Path, root: Path) -> tuple[Path, ...]:
    """Modules of the package that a file imports, at its top or inside functions; examples in docstrings count too."""
    names = []
    # By the words: to parse the files takes ten times as long, a tenth of the dry run of a large run.
    for module, listed, plain in IMPORTS.findall(COMMENT.sub("", _text(path))):
        parent = len(module) - len(module.lstrip("."))
        if parent:
            folder = path.parents[parent - 1].relative_to(root)
            module = ".".join([*folder.parts, *filter(None, [module[parent:]])])
        names += [f"{module}.{word.split()[0]}" for word in listed.strip("()").split(",") if word.split()]
        names += [word.split()[0] for word in plain.split(",") if word.split()]
    paths = [_module(name, root) for name in names if name.split(".")[0] == PACKAGE]
    return tuple(dict.fromkeys(found for found in paths if found))


@functools.cache
def _module(name: str, root: Path) -> Path | None:
    """File of a dotted name, or of the module that defines the last part of it."""
    for parts in (name.split("."), name.split(".")[:-1]):
        if parts and (path := root.joinpath(*parts).with_suffix(".py")).is_file():
            return path
        if parts and (path := root.joinpath(*parts, "__init__.py")).is_file():
            return path
    return None


@functools.cache
def _data(path: Path) -> tuple[Path, ...]:
    """Package data (styles, templates, tables) whose name stands in a module, and modules that it copies as files."""
    # A folder of data counts whole: a template includes others.
    found: set[Path] = set()
    for entry in path.parent.iterdir():
        named = any(quote + entry.name + quote in _text(path) for quote in "\"'") and entry.name != "__init__.py"
        if named and not (entry / "__init__.py").exists():
            found |= {entry} if entry.is_file() else {file for file in entry.rglob("*") if file.is_file()}
    return tuple(sorted(found))
