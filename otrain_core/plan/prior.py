"""Random telescopes, drawn from a prior, to train a classifier that works on unseen telescopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from zlib import crc32

import numpy as np
from pydantic import Field, ValidationError, model_validator

from otrain_core.errors import ConfigError
from otrain_core.plan.sections import Name, Section, explain_first
from otrain_core.plan.telescopes import Telescope

SETS = ("train", "validation", "test")
FWHM = "sky.fwhm"  # key of a prior that replaces sky.seeing: FWHM of a star [px]


class Distribution(Section):
    """Distribution of one value of a telescope: exactly one of uniform, log, integer and choice."""

    uniform: tuple[float, float] | None = Field(None, description="uniform between two values")
    log: tuple[float, float] | None = Field(None, description="uniform in the logarithm between two positive values")
    integer: tuple[int, int] | None = Field(None, description="a whole number between two values, both included")
    choice: list[Any] | None = Field(None, min_length=1, description="one of these values, with equal probabilities")
    share: float = Field(
        1.0, ge=0, le=1, description="fraction of the telescopes that draw a value; the others have `otherwise`"
    )
    otherwise: Any = Field(0, description="value of the telescopes that do not draw one")

    @model_validator(mode="after")
    def _one_kind(self):
        given = [name for name in ("uniform", "log", "integer", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"must have exactly one of uniform, log, integer and choice, but has {', '.join(given) or 'none'}"
            )
        if given[0] != "choice":
            low, high = getattr(self, given[0])
            if low > high or (given[0] == "log" and low <= 0):
                raise ValueError(f"{given[0]}: the first value must be the smaller one (and above 0 for log)")
        return self

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one value; real numbers are rounded to six significant digits."""
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
    """Random telescopes whose cutouts train one classifier (target `universal`)."""

    telescopes: int = Field(0, ge=0, le=100_000, description="number of random telescopes (0: none)")
    validation: int = Field(
        0,
        ge=0,
        description="number of these telescopes in the validation set, which selects epoch, threshold and calibration",
    )
    test: int = Field(0, ge=0, description="number of these telescopes in the test set")
    name: Name = Field("random", description="prefix of their names")
    seed: int = Field(1, ge=0, lt=2**32, description="random seed of the draws")
    prior: dict[str, Distribution | bool | int | float | str | None] = Field(
        {},
        description="distribution or fixed value for each key of a telescope, such as detector.gain and sky.psf_beta; "
        "sky.fwhm [px] replaces sky.seeing",
    )
    pipelines: dict[Name, Annotated[float, Field(ge=0)]] = Field(
        {}, description="relative numbers of telescopes by pipeline ({}: builtin for all)"
    )
    max_per_class: int = Field(300, ge=1, description="maximum number of True, and of False, from each telescope")
    max_failed_fraction: float = Field(0.3, ge=0, lt=1, description="maximum fraction of refused images")

    @model_validator(mode="after")
    def _sets_fit(self):
        if self.telescopes and not self.prior:
            raise ValueError(
                f"prior: {self.telescopes} random telescopes are asked for (telescopes), but nothing says how to draw "
                "them; give draw.prior, or put this file behind one that has it "
                "(--configfile config/universal.yaml THIS_FILE)"
            )
        if self.telescopes and (not self.validation or not self.test):
            raise ValueError("validation and test: each needs at least one telescope")
        if self.telescopes and self.validation + self.test >= self.telescopes:
            raise ValueError("validation and test: together they must leave at least one telescope for training")
        if self.pipelines and not sum(self.pipelines.values()) > 0:
            raise ValueError("pipelines: at least one value must be positive")
        return self


@dataclass(frozen=True)
class Drawn:
    """One random telescope: its entry, its pipeline and its set (train, validation or test)."""

    telescope: Telescope
    pipeline: str
    set: str


def draw_telescopes(options: DrawOptions) -> list[Drawn]:
    """Draw all telescopes: first those of the test set, then validation, then train.

    Every value has its own random stream, which depends on the seed, the number of the telescope and the key. More
    telescopes or more keys therefore do not change the others.

    Raises
    ------
    ConfigError
        A key that telescopes do not have, or an invalid value.
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
            raise ConfigError(f"draw.prior: {FWHM} requires detector.pixel_scale, and excludes sky.seeing")
        values["sky.seeing"] = values.pop(FWHM) * scale
    entry: dict[str, Any] = {"name": name, "source": "simulated"}
    for key, value in values.items():
        section, _, field = key.partition(".")
        if section not in ("detector", "sky") or not field:
            raise ConfigError(f"draw.prior: {key}: must be a key of detector or sky, such as detector.gain")
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
