"""Base of the sections of the configuration, and their error messages."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_+.-]*"


Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, and a section that is made does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
