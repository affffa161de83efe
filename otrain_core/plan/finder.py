"""Options of the detector network: section ``finder`` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from otrain_core.plan.sections import Section


class FinderOptions(Section):
    """The detector network, which finds transients in whole images (study finder)."""

    train: bool = Field(
        False,
        description="train the detector network on the images of every cube of the run and evaluate it; the difference "
        "images are kept",
    )
    filters: int = Field(16, ge=4, le=128, description="number of filters per layer")
    dilations: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [1, 1, 2, 4, 4, 2, 1, 1], min_length=1, max_length=32, description="dilations of the 3 x 3 layers, in order"
    )
    tile: int = Field(96, ge=32, le=1024, description="side length of the training tiles [px]")
    batch_size: int = Field(8, ge=1, le=1024, description="tiles per batch")
    steps: int = Field(2000, ge=1, le=10_000_000, description="number of training batches")
    check_every: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="number of batches between two evaluations on the validation set; the best weights are kept",
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="initial learning rate of Adam, with cosine decay")
    drop_difference: float = Field(0.4, ge=0, le=1, description="fraction of the training tiles without a difference")
    drop_mask: float = Field(0.1, ge=0, le=1, description="fraction of the training tiles with an empty mask")
    shift_reference: float = Field(
        0.2, ge=0, le=1, description="fraction of the training tiles whose reference is shifted by up to 1 px"
    )
    add_sources: float = Field(0.8, ge=0, le=1, description="fraction of the training tiles with additional sources")
    add_artefacts: float = Field(
        0.5, ge=0, le=1, description="fraction of the training tiles with additional cosmic rays and hot pixels"
    )
    heat_width: float = Field(
        0.5, gt=0, le=2, description="ratio of the width of the Gaussian in the target heat map to the seeing"
    )
    stress_images: int = Field(
        4, ge=1, le=10_000, description="number of test images that the study degrades for its stress tests"
    )
    min_snr: float = Field(
        4.0, gt=0, description="injected sources below this S/N are not trained on and do not count as false alarms"
    )
