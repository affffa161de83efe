"""Base of the sections of the configuration, their error messages, and the reader of their YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otrain_core.errors import ConfigError

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_+.-]*"


Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinities are errors, and a section that is made does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds keys and values; an empty one holds none.

    Raises
    ------
    ConfigError
        Missing or unreadable file, not YAML, or not keys and values.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: keys and values are needed, found {type(values).__name__}")
    return values


def explain_first(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(section)"
    if first["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key{near_name(key.split('.')[-1], error.title)}"
    value = first.get("input")
    shown = f" (found {value!r})" if not isinstance(value, dict | BaseModel) else ""
    return f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{shown}"


def near_name(key: str, title: str) -> str:
    import difflib

    known = {name for section in _all_sections() for name in section.model_fields}
    match = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def _all_sections() -> list[type[Section]]:
    return Section.__subclasses__()
