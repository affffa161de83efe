"""Options of the detector network: section ``finder`` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from otrain_core.plan.sections import Section


class FinderOptions(Section):
    """The network that finds transients in whole images (study finder)."""

    train: bool = Field(
        False, description="train it on the images of every cube of the run, and judge it; their differences are kept"
    )
    filters: int = Field(16, ge=4, le=128, description="filters of every layer")
    dilations: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [1, 1, 2, 4, 4, 2, 1, 1], min_length=1, max_length=32, description="dilations of the 3 x 3 layers, in order"
    )
    tile: int = Field(96, ge=32, le=1024, description="side of the tiles of training [px]")
    batch_size: int = Field(8, ge=1, le=1024, description="tiles in a batch")
    steps: int = Field(2000, ge=1, le=10_000_000, description="batches that it is trained on")
    check_every: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="batches between two looks at the validation set; the best state there is kept",
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Adam's first learning rate; it falls along a cosine")
    drop_difference: float = Field(
        0.4, ge=0, le=1, description="share of the tiles of training that have no difference"
    )
    drop_mask: float = Field(0.1, ge=0, le=1, description="share of the tiles of training whose mask is empty")
    shift_reference: float = Field(
        0.2, ge=0, le=1, description="share of the tiles of training whose reference is shifted, by up to 1 px"
    )
    add_sources: float = Field(0.8, ge=0, le=1, description="share of the tiles of training that get further sources")
    add_artefacts: float = Field(
        0.5, ge=0, le=1, description="share of the tiles of training that get further cosmic rays and hot pixels"
    )
    heat_width: float = Field(
        0.5, gt=0, le=2, description="width of the Gaussian that the network is to draw about a source, over the seeing"
    )
    stress_images: int = Field(4, ge=1, le=10_000, description="test images of the study that are spoilt in its tests")
    min_snr: float = Field(
        4.0, gt=0, description="injected sources below this S/N neither train nor count as false alarms"
    )
