"""Compare the detector network with a Faster R-CNN: ``python -m tools.finder_peer CUBE -o peer.csv``.

Needs torch and torchvision, which are not dependencies of O'TRAIN. A MobileNet with a feature pyramid (Howard et al. 2019;
Ren et al. 2015) with anchors of 8 to 16 px is trained from random weights on the tiles from `otrain_core.networks.tiles`. It is
evaluated on the test images in the same way as in the study `finder`. A step takes 3.4 CPU s, a step of the detector network 0.15.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.planes import PLANES, Planes
from otrain_core.evaluation.found import completeness, judge
from otrain_core.networks.tiles import TARGETS, draw_batch
from otrain_core.networks.train_finder import tile_images
from otrain_core.plan.config import EvaluateOptions
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.pipelines import CrossmatchOptions

CHANNELS = ("science", "reference", "difference")  # such networks take three channels
SIDE = 4.0  # side of the box around a source [FWHM]
ANCHORS = (8, 12, 16)  # sides [px]
MAGNIFIED = (
    4  # images are magnified, because the strides of the network are 16 and 32 px and a star has a FWHM of about 3 px
)


def boxes_of(targets: np.ndarray, *, seeing: float) -> np.ndarray:
    """Boxes x0, y0, x1, y1 (n, 4) of the sources of a tile [px, the first pixel extends from 0 to 1]."""
    rows, columns = np.nonzero(targets[..., TARGETS.index("heat")] == 1)
    x = columns + targets[rows, columns, TARGETS.index("dx")] + 0.5
    y = rows + targets[rows, columns, TARGETS.index("dy")] + 0.5
    half = SIDE * seeing / 2
    return np.column_stack([x - half, y - half, x + half, y + half]).astype(np.float32)


def channels_of(inputs: np.ndarray) -> np.ndarray:
    """Convert the planes of the detector network (height, width, planes) to an array (3, height, width)."""
    return np.ascontiguousarray(inputs[..., [PLANES.index(name) for name in CHANNELS]].transpose(2, 0, 1))


def found_in(model: Any, planes: Planes) -> pd.DataFrame:
    """Positions x, y [px] and scores of the boxes that a network finds in an image."""
    import torch

    sides = [MAGNIFIED * side for side in planes.shape]
    model.transform.min_size, model.transform.max_size = (min(sides),), max(sides)
    with torch.no_grad():
        (said,) = model([torch.from_numpy(channels_of(planes.inputs(planes.spread())))])
    boxes = said["boxes"].numpy()
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2 - 0.5, (boxes[:, 1] + boxes[:, 3]) / 2 - 0.5
    return pd.DataFrame({"x": x, "y": y, "score": said["scores"].numpy()})


def train(images: list, options: FinderOptions, *, seed: int) -> Any:
    """Train a Faster R-CNN on as many tiles as the detector network."""
    import torch
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import mobilenet_backbone

    torch.manual_seed(seed)
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6)
    anchors = AnchorGenerator((tuple(MAGNIFIED * side for side in ANCHORS),) * 3, ((1.0,),) * 3)
    model = FasterRCNN(
        backbone,
        num_classes=2,
        rpn_anchor_generator=anchors,
        min_size=MAGNIFIED * options.tile,
        max_size=MAGNIFIED * options.tile,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        box_detections_per_img=1000,
        box_batch_size_per_image=64,  # a tile holds few sources
        rpn_post_nms_top_n_train=300,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seeing = float(np.median([image.field.planes.seeing for image in images]))
    model.train()
    for step in range(options.steps):
        rng = np.random.default_rng([seed, 1, step])
        inputs, targets = draw_batch(images, options=options, side=options.tile, n=options.batch_size, rng=rng)
        said = []
        for one in targets:
            boxes = torch.from_numpy(boxes_of(one, seeing=seeing)).reshape(-1, 4)
            said.append({"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)})
        loss = sum(model([torch.from_numpy(channels_of(one)) for one in inputs], said).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube", type=Path, help="folder of a cube from a run with finder.train")
    parser.add_argument("-o", "--output", type=Path, default=Path("peer.csv"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=FinderOptions().steps)
    given = parser.parse_args()
    options = FinderOptions(steps=given.steps, drop_difference=0.0)
    images = {name: tile_images(given.cube, given.cube / "split.csv", name) for name in ("train", "test")}
    model = train(images["train"], options, seed=given.seed)
    judged = [
        judge(found_in(model, image.field.planes), image.field, options=CrossmatchOptions(), least_snr=options.min_snr)
        for image in images["test"]
    ]
    table = completeness(
        {"Faster R-CNN": judged},
        low=5,
        high=10,
        per_image=1.0,
        options=EvaluateOptions(),
        rng=np.random.default_rng(given.seed),
    )
    table.to_csv(given.output, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
