"""Base of the sections of the configuration, their error messages, and the reader of their YAML files."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otrain_core.errors import ConfigError

MAX_VALUES = 1_000_000  # of a configuration; the largest sensible one has some thousands
MAX_DEPTH = 50
KIND = re.compile(r"(constrained-)?(int|float|str)|(list|literal|tuple|dict)\[.*\]")
RENAMED = {  # keys, and values of keys, of earlier versions
    "draw.tune": "validation",
    "run.protocols: grouped": "by-image",
    "run.protocols: paper": "random",
}
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_+.-]*"


Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinities are errors, and a section that is made does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds keys and values; an empty one holds none.

    Raises
    ------
    ConfigError
        Missing or unreadable file, not YAML, or not keys and values.
    """
    import yaml

    path = Path(path)
    if path.exists() and not path.is_file():  # a directory, or a pipe that would be waited for
        raise ConfigError(f"{path}: not a file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: keys and values are needed, found {type(values).__name__}")
    check_extent(values, where=str(path))
    return values


def _loader() -> type:
    """A loader of plain values that refuses a key that stands twice, of which YAML would take the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:merge" and isinstance(key.value, str):
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        raise yaml.constructor.ConstructorError(None, None, f"line {line}: {key.value!r} stands twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


def check_extent(values: Any, *, where: str) -> None:
    """Refuse values whose anchors repeat each other: a page of YAML can stand for more than a memory holds.

    Raises
    ------
    ConfigError
        More than `MAX_VALUES` values once all anchors are written out, deeper than `MAX_DEPTH`, or a loop.
    """
    sizes: dict[int, int] = {}  # by identity: what an anchor names is counted once, and added at every place

    def extent(value: Any, depth: int) -> int:
        if not isinstance(value, dict | list):
            return 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested too deeply, or an anchor within itself")
        if id(value) not in sizes:
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(extent(item, depth + 1) for item in items)
        return sizes[id(value)]

    if extent(values, 0) > MAX_VALUES:
        raise ConfigError(f"{where}: more than {MAX_VALUES} values once its anchors are written out")


def explain_first(error: ValidationError, where: str) -> str:
    """The first error of a section as one sentence: where, key, what is wrong and what was found."""
    first = error.errors()[0]
    key = _key(first["loc"]) or "(section)"
    if first["type"] == "extra_forbidden":
        renamed = f"; it is called {RENAMED[key]!r} now" if key in RENAMED else near_name(key.split(".")[-1])
        return f"{where}: {key}: unknown key{renamed}"
    value = first.get("input")
    if first["type"] == "string_pattern_mismatch":
        wrong = "a name of letters, digits and _ + . - is needed, which begins with a letter or a digit"
        return f"{where}: {key}: {wrong} (found {value!r})"
    shown = f" (found {value!r})" if not isinstance(value, dict | BaseModel) else ""
    others = [f", or {item['ctx']['expected']}" for item in error.errors()[1:] if _alternative(item, first)]
    new = RENAMED.get(f"{key.rstrip('.0123456789')}: {value}") if isinstance(value, str) else None
    shown += f"; it is called {new!r} now" if new else ""
    return f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{''.join(others)}{shown}"


def _key(loc: tuple[int | str, ...]) -> str:
    """Place of an error, less the kinds that pydantic names where a value may be of several."""
    kept = [
        str(part)
        for part, after in zip(loc, (*loc[1:], None), strict=False)
        if isinstance(part, int) or isinstance(after, str) or not KIND.fullmatch(part)
    ]
    return ".".join(kept)


def _alternative(error: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether an error only says that the value is not the word which could stand in its place."""
    return (
        error["type"] == "literal_error" and error["loc"] != first["loc"] and _key(error["loc"]) == _key(first["loc"])
    )


def near_name(key: str, known: Collection[str] | None = None) -> str:
    """A question whether the nearest of the `known` names is meant (default: the keys of all sections), or ''."""
    import difflib

    if known is None:
        known = {name for section in _all_sections() for name in section.model_fields}
    match = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def _all_sections() -> list[type[Section]]:
    return Section.__subclasses__()
