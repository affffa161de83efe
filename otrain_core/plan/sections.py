"""Base class of the configuration sections, their error messages, and the reader of YAML files."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otrain_core.errors import ConfigError

MAX_VALUES = 1_000_000  # of a configuration; the largest sensible one has a few thousand
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
    """Base class of all sections: immutable; unknown keys, NaN and infinities are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty file has none.

    Raises
    ------
    ConfigError
        The file is missing or unreadable, is not YAML, or does not consist of keys and values.
    """
    import yaml

    path = Path(path)
    if path.exists() and not path.is_file():  # a folder, or a named pipe that would block
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
        raise ConfigError(f"{path}: must consist of keys and values, but is a {type(values).__name__}")
    check_extent(values, where=str(path))
    return values


def _loader() -> type:
    """A loader of plain values that refuses duplicate keys; YAML would silently use the last one."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:merge" and isinstance(key.value, str):
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        raise yaml.constructor.ConstructorError(None, None, f"line {line}: {key.value!r} appears twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


def check_extent(values: Any, *, where: str) -> None:
    """Refuse values with nested anchors that would not fit into memory when expanded.

    Raises
    ------
    ConfigError
        There are more than `MAX_VALUES` values after all anchors are expanded, the values are nested more deeply than
        `MAX_DEPTH`, or an anchor contains itself.
    """
    sizes: dict[int, int] = {}  # by identity, so that each anchor is walked through only once

    def extent(value: Any, depth: int) -> int:
        if not isinstance(value, dict | list):
            return 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: nested too deeply, or an anchor contains itself")
        if id(value) not in sizes:
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(extent(item, depth + 1) for item in items)
        return sizes[id(value)]

    if extent(values, 0) > MAX_VALUES:
        raise ConfigError(f"{where}: more than {MAX_VALUES} values after its anchors are expanded")


def explain_first(error: ValidationError, where: str) -> str:
    """The first validation error of a section as one sentence: where, key, what is wrong and what was found."""
    first = error.errors()[0]
    key = _key(first["loc"])
    place = f"{where}: {key}" if key else where  # errors of a whole section name their key in the message
    if first["type"] == "extra_forbidden":
        renamed = f"; it is called {RENAMED[key]!r} now" if key in RENAMED else near_name(key.split(".")[-1])
        return f"{place}: unknown key{renamed}"
    if first["type"] == "missing":
        return f"{place}: this key is needed, but missing"
    value = first.get("input")
    if first["type"] == "string_pattern_mismatch":
        wrong = "must be a name of letters, digits and _ + . - that begins with a letter or a digit"
        return f"{place}: {wrong} (found {value!r})"
    shown = f" (found {value!r})" if not isinstance(value, dict | BaseModel) else ""
    others = [f", or {item['ctx']['expected']}" for item in error.errors()[1:] if _alternative(item, first)]
    new = RENAMED.get(f"{key.rstrip('.0123456789')}: {value}") if isinstance(value, str) else None
    shown += f"; it is called {new!r} now" if new else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{''.join(others)}{shown}"


def _key(loc: tuple[int | str, ...]) -> str:
    """Dotted key of an error, without the type names that pydantic adds for values of several types."""
    kept = [
        str(part)
        for part, after in zip(loc, (*loc[1:], None), strict=False)
        if isinstance(part, int) or isinstance(after, str) or not KIND.fullmatch(part)
    ]
    return ".".join(kept)


def _alternative(error: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether an error says that the same value could also be one of certain words."""
    return (
        error["type"] == "literal_error" and error["loc"] != first["loc"] and _key(error["loc"]) == _key(first["loc"])
    )


def near_name(key: str, known: Collection[str] | None = None) -> str:
    """The hint "; did you mean ..." with the most similar of the `known` names, '' if none is similar.

    The default of `known` is the keys of all sections.
    """
    import difflib

    if known is None:
        known = {name for section in _all_sections() for name in section.model_fields}
    match = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def _all_sections() -> list[type[Section]]:
    return Section.__subclasses__()
