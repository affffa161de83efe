"""The recipe of a model: how its training cutouts were made, so that new cutouts are made in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from otrain_core.errors import ConfigError
from otrain_core.plan.pipelines import Pipeline
from otrain_core.plan.sections import explain_first
from otrain_core.plan.telescopes import Detector

STEPS = ("psf", "prepare", "subtract", "detect", "cutouts")  # injection and labelling are needed for training only


@dataclass(frozen=True)
class Recipe:
    """Options of all steps from a frame to its cutouts.

    Attributes
    ----------
    pipeline : Pipeline
    detector : Detector
        Values that the headers of the images lack.
    telescope, name : str
        Names of the telescope and of the pipeline.
    """

    pipeline: Pipeline
    detector: Detector
    telescope: str = ""
    name: str = ""

    def record(self) -> dict[str, Any]:
        """The recipe as plain values, as stored in the metadata of a model."""
        steps = {step: getattr(self.pipeline, step).model_dump(mode="json") for step in STEPS}
        return {
            "telescope": self.telescope,
            "pipeline": self.name,
            "steps": steps,
            "detector": self.detector.model_dump(mode="json"),
        }


def read_recipe(about: Mapping[str, Any], *, where: str) -> Recipe | None:
    """Read the recipe from the metadata of a model; None if there is none.

    Parameters
    ----------
    about : mapping
        Metadata of a model (`otrain_core.classify.Classifier.about`).
    where : str
        Name of the model, for errors.

    Raises
    ------
    ConfigError
        This version does not know a key or value of the recipe.
    """
    record = about.get("recipe")
    if not record:
        return None
    try:
        pipeline = Pipeline.model_validate({step: record["steps"][step] for step in STEPS})
        detector = Detector.model_validate(record["detector"])
    except ValidationError as error:
        raise ConfigError(explain_first(error, f"{where}: recipe")) from None
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: its recipe cannot be read ({type(error).__name__}: {error})") from None
    return Recipe(pipeline, detector, telescope=str(record.get("telescope", "")), name=str(record.get("pipeline", "")))
