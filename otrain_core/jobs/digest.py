"""Digest of the code of a step of the workflow."""

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

# Modules that cannot change a result: messages, logs, checks of input files, progress. The options of a step are
# parameters of its rule, so that their values count and not the code that defines them.
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
# Modules that cannot change the result of one step: tracking on a server does not change a training.
NEUTRAL_IN = {step: ("otrain_core.registry",) for step in ("networks/train", "networks/train_finder")}


def code_digest(script: str, *, root: str | Path | None = None) -> str:
    """Digest of a script and of all library code that it imports.

    It is a parameter of the rule of the script, so that a change of a module reruns only the steps that use it.

    Parameters
    ----------
    script : str
        Folder and name of the script, such as ``networks/train``.
    root : path-like, optional
        Root of the clone (default: the clone of this package).

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
    """Clear the caches: by default every file is read only once per process."""
    for function in (_text, _module, _imports, _data):
        function.cache_clear()


def code_files(script: str, *, root: Path) -> list[Path]:
    """Sorted modules that a script imports, directly and indirectly, and the package data that these name.

    Imports within functions are included. The modules in `NEUTRAL`, and modules that only these import, are not.
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
    """Whether a module or its subpackage is in the list."""
    wings = [item for item in neutral if item.count(".") == 1]
    return name in neutral or any(name.startswith(f"{wing}.") for wing in wings)


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache  # every job on a cluster starts Snakemake twice, which needs dozens of digests
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def _imports(path: Path, root: Path) -> tuple[Path, ...]:
    """Modules of the package that a file imports, at its top, in functions or in examples of docstrings."""
    names = []
    # Regular expressions are ten times as fast as parsing, which would take a tenth of the dry run of a large run.
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
    """File of a dotted module name, or of the module that defines its last part."""
    for parts in (name.split("."), name.split(".")[:-1]):
        if parts and (path := root.joinpath(*parts).with_suffix(".py")).is_file():
            return path
        if parts and (path := root.joinpath(*parts, "__init__.py")).is_file():
            return path
    return None


@functools.cache
def _data(path: Path) -> tuple[Path, ...]:
    """Package data (styles, templates, tables) that a module names, and modules that it names as files to copy."""
    # A folder of data counts as a whole, as templates include each other.
    found: set[Path] = set()
    for entry in path.parent.iterdir():
        named = any(quote + entry.name + quote in _text(path) for quote in "\"'") and entry.name != "__init__.py"
        if named and not (entry / "__init__.py").exists():
            found |= {entry} if entry.is_file() else {file for file in entry.rglob("*") if file.is_file()}
    return tuple(sorted(found))
