"""Telescopes drawn at random from a prior, for a classifier of telescopes that it has never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from pydantic import Field, ValidationError, model_validator

from otrain_core.errors import ConfigError
from otrain_core.plan.sections import Name, Section, explain_first
from otrain_core.plan.telescopes import Telescope

SETS = ("train", "validation", "test")
FWHM = "sky.fwhm"  # key of a prior in place of sky.seeing: FWHM of a star [px]


class Distribution(Section):
    """One value of a telescope, drawn at random: exactly one of uniform, log, integer and choice."""

    uniform: tuple[float, float] | None = Field(None, description="uniform between two values")
    log: tuple[float, float] | None = Field(None, description="uniform in the logarithm between two positive values")
    integer: tuple[int, int] | None = Field(None, description="a whole number from the first to the second")
    choice: list[Any] | None = Field(None, min_length=1, description="one of these values, all equally likely")
    share: float = Field(1.0, ge=0, le=1, description="share of the telescopes that draw; the others have `otherwise`")
    otherwise: Any = Field(0, description="value of the telescopes that do not draw")

    @model_validator(mode="after")
    def _one_kind(self):
        given = [name for name in ("uniform", "log", "integer", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of uniform, log, integer and choice is needed, found {', '.join(given) or 'none'}")
        if given[0] != "choice":
            low, high = getattr(self, given[0])
            if low > high or (given[0] == "log" and low <= 0):
                raise ValueError(f"{given[0]}: a smaller and a larger value are needed, for log above 0")
        return self

    def draw(self, rng: np.random.Generator) -> Any:
        """One value; numbers with six significant digits."""
        if self.share < 1 and rng.random() >= self.share:
            return self.otherwise
        if self.choice is not None:
            return self.choice[int(rng.integers(len(self.choice)))]
        if self.integer is not None:
            return int(rng.integers(self.integer[0], self.integer[1] + 1))
        if self.log is not None:
            return float(f"{np.exp(rng.uniform(*np.log(self.log))):.6g}")
        assert self.uniform is not None
        return float(f"{rng.uniform(*self.uniform):.6g}")


class DrawOptions(Section):
    """Telescopes drawn at random, whose cutouts train one classifier (target `universal`)."""

    telescopes: int = Field(0, ge=0, le=100_000, description="telescopes drawn (0: none)")
    validation: int = Field(
        0, ge=0, description="of them so many decide the kept epoch, the threshold and the calibration"
    )
    test: int = Field(0, ge=0, description="of them so many are scored and seen by nothing else")
    name: Name = Field("random", description="their names begin so")
    seed: int = Field(1, ge=0, lt=2**32, description="seed of the draws")
    prior: dict[str, Distribution | bool | int | float | str | None] = Field(
        {},
        description="distribution or value by key of a telescope, as detector.gain and sky.psf_beta; sky.fwhm [px] stands for sky.seeing",
    )
    pipelines: dict[Name, float] = Field({}, description="share of the telescopes by pipeline ({}: all under builtin)")
    max_per_class: int = Field(300, ge=1, description="True, and False, of one telescope at most")
    max_failed_fraction: float = Field(0.3, ge=0, lt=1, description="largest share of refused images")

    @model_validator(mode="after")
    def _sets_fit(self):
        if self.telescopes and not 0 < self.validation + self.test < self.telescopes:
            raise ValueError("validation and test need telescopes, and fewer than all are to be left for train")
        if self.telescopes and (not self.validation or not self.test):
            raise ValueError("validation and test need one telescope each at least")
        if self.pipelines and not sum(self.pipelines.values()) > 0:
            raise ValueError("pipelines: one with a positive share is needed")
        return self


@dataclass(frozen=True)
class Drawn:
    """One telescope of a draw: its entry, its pipeline and its set (train, validation or test)."""

    telescope: Telescope
    pipeline: str
    set: str


def draw_telescopes(options: DrawOptions) -> list[Drawn]:
    """All telescopes of a draw, in order: first those of test, then validation, then train.

    Each value has a random stream of its own, of seed, number of the telescope and key: more telescopes and more
    keys leave the others as they are.

    Raises
    ------
    ConfigError
        A key that no telescope has, or a value that it cannot have.
    """
    return [_draw_one(options, number) for number in range(options.telescopes)]


def _draw_one(options: DrawOptions, number: int) -> Drawn:
    name = f"{options.name}{number:04d}"
    values: dict[str, Any] = {}
    for key, prior in options.prior.items():
        rng = np.random.default_rng([options.seed, number, crc32(key.encode())])
        values[key] = prior.draw(rng) if isinstance(prior, Distribution) else prior
    if FWHM in values:
        scale = values.get("detector.pixel_scale")
        if not isinstance(scale, int | float) or "sky.seeing" in values:
            raise ConfigError(f"draw.prior: {FWHM} needs detector.pixel_scale beside it, and no sky.seeing")
        values["sky.seeing"] = values.pop(FWHM) * scale
    entry: dict[str, Any] = {"name": name, "source": "simulated"}
    for key, value in values.items():
        section, _, field = key.partition(".")
        if section not in ("detector", "sky") or not field:
            raise ConfigError(f"draw.prior: {key}: a key of detector or sky is needed, as detector.gain")
        entry.setdefault(section, {})[field] = value
    try:
        telescope = Telescope.model_validate(entry)
    except ValidationError as error:
        raise ConfigError(explain_first(error, f"draw.prior (telescope {name})")) from None
    rng = np.random.default_rng([options.seed, number, crc32(b"pipeline")])
    where = "test" if number < options.test else "validation" if number < options.test + options.validation else "train"
    return Drawn(telescope, _pipeline(options.pipelines or {"builtin": 1.0}, rng), where)


def _pipeline(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()), dtype=float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]
