"""Figs. 1 to 3 of the paper: the network, the training procedure and the Keras summary, with the numbers of the model object."""

from __future__ import annotations

import math

import pandas as pd

from otrain_core.figures.canvas import FALSE_COLOUR, NEUTRAL, TRUE_COLOUR, new_figure

KINDS = {  # colour and name of the kinds of layers
    "Conv2D": ("#56B4E9", "convolution"),
    "AveragePooling2D": ("#E69F00", "pooling"),
    "MaxPooling2D": ("#E69F00", "pooling"),
    "GlobalAveragePooling2D": ("#E69F00", "pooling"),
    "Dense": ("#009E73", "dense"),
    "Softmax": ("#009E73", "dense"),
}
PLAIN = ("#D9D9D9", "input, flatten")
SILENT = ("InputLayer", "Dropout", "BatchNormalization", "ReLU")


def draw_architecture(table: pd.DataFrame):
    """Draw the layer outputs of one network as boxes: sides to scale, thickness increasing with the channels."""
    from matplotlib.patches import Patch

    figure, ax = new_figure(10.5, 3.3)
    x, gap, seen = 0.0, 0.75, {}
    for row in table.to_dict("records"):
        if row["type"] == "Dropout":
            ax.plot([x - 0.42, x - 0.42], [-1.5, 1.5], color=NEUTRAL, linestyle=":", linewidth=1.1)
        if row["type"] in SILENT:
            continue
        colour, kind = KINDS.get(row["type"], PLAIN)
        seen[kind] = colour
        flat, channels = pd.isna(row["height"]), int(row["channels"])
        # Sides of maps are to scale. A vector has no side, so its height shows the number of elements.
        side = 0.3 * math.log2(channels) if flat else 3.2 * int(row["height"]) / int(table["height"].max())
        thick = 0.14 if flat else 0.10 + 0.11 * math.log2(channels)
        _box(ax, x, side, thick, 0 if flat else 0.28 * side, colour)
        size = f"{channels:,}" if flat else f"{int(row['height'])}×{int(row['width'])}\n×{channels}"
        middle = x + (thick + (0 if flat else 0.28 * side)) / 2
        ax.text(middle, side / 2 + (0 if flat else 0.20 * side) + 0.12, size, ha="center", va="bottom", fontsize=7.5)
        ax.text(middle, -2.55, _name(row), ha="center", va="center", fontsize=7.5)
        x += thick + (0.45 if flat else 0.28 * side) + gap
    ax.set(xlim=(-0.3, x), ylim=(-2.9, 2.9), aspect="equal")
    ax.axis("off")
    handles = [Patch(facecolor=colour, edgecolor="black", label=kind) for kind, colour in seen.items()]
    if (table["type"] == "Dropout").any():
        handles.append(ax.plot([], [], color=NEUTRAL, linestyle=":", label="dropout")[0])
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(handles))
    return figure


def _name(row) -> str:
    short = {
        "InputStage": "cutout",
        "Conv2D": "3×3\nconv",
        "AveragePooling2D": "average\npool",
        "MaxPooling2D": "max\npool",
        "GlobalAveragePooling2D": "average",
        "Softmax": "softmax",
    }
    return short.get(row["type"], row["type"].lower())


def _box(ax, x: float, side: float, thick: float, depth: float, colour: str) -> None:
    """Draw a box in perspective: its front, its top and its side face."""
    from matplotlib.patches import Polygon

    low, high, rise = -side / 2, side / 2, 0.7 * depth
    faces = (
        ([(x, low), (x + thick, low), (x + thick, high), (x, high)], 1.0),
        ([(x, high), (x + thick, high), (x + thick + depth, high + rise), (x + depth, high + rise)], 0.7),
        ([(x + thick, low), (x + thick + depth, low + rise), (x + thick + depth, high + rise), (x + thick, high)], 0.4),
    )
    for corners, alpha in faces:
        ax.add_patch(Polygon(corners, facecolor="white", edgecolor="none"))
        ax.add_patch(Polygon(corners, facecolor=colour, edgecolor="black", linewidth=0.7, alpha=alpha))


def draw_loop(table: pd.DataFrame):
    """Draw the training procedure as a loop, with its numbers."""
    values = dict(zip(table["key"], table["value"], strict=True))

    def whole(key: str) -> str:
        try:
            return f"{int(float(values.get(key, ''))):,}"
        except ValueError:
            return "?"

    figure, ax = new_figure(9.2, 4.2)
    ax.set(xlim=(0, 100), ylim=(0, 46))
    ax.axis("off")
    split = "at random, by cutout" if values.get("protocol") == "random" else "by image"
    total = int(float(values.get("n_train") or 0)) + int(float(values.get("n_watched") or 0))
    cells = {
        "cube": (2, 18, 17, 11, f"{values.get('cube')}\n{total:,} labelled\ncutouts", "#D9D9D9"),
        "train": (26, 29, 20, 10, f"train\n{whole('n_train')} cutouts,\nnew order every epoch", "#C9E4F5"),
        "watch": (26, 5, 20, 10, f"validation\n{whole('n_watched')} cutouts", "#F5D9C4"),
        "batch": (53, 29, 18, 10, f"{whole('batches')} batches of\nup to {whole('batch_size')}", "#C9E4F5"),
        "network": (78, 29, 20, 10, f"network\n{whole('n_parameters')}\ntrainable parameters", "#BFE3D4"),
        "loss": (78, 5, 20, 10, "accuracy and loss\nat the end of the epoch", "#F5D9C4"),
    }
    for x, y, width, height, text, colour in cells.values():
        _cell(ax, x, y, width, height, text, colour)

    def arrow(start, end, text="", at=None, colour="black", bend=0.0):
        style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})
        if text:
            ax.text(*at, text, ha="center", va="center", fontsize=8, color=colour)

    arrow((19, 25), (26, 33))
    arrow((19, 22), (26, 11))
    ax.text(10.5, 14.5, f"split {split}", ha="center", fontsize=8)
    arrow((46, 34), (53, 34))
    arrow((71, 34), (78, 34))
    rate = float(values.get("learning_rate") or "nan")
    text = f"cross-entropy loss, Adam (rate {rate:g}, {values.get('schedule')}): update after every batch"
    arrow((88, 39), (62, 39), text, (72, 45.3), TRUE_COLOUR, 0.22)
    arrow((46, 10), (78, 10), "scored with the weights of the epoch's end", (62, 12), FALSE_COLOUR)
    arrow((88, 29), (88, 15), colour=FALSE_COLOUR)
    arrow((82, 15), (40, 29), f"next epoch, {whole('epochs')} in all", (46, 21.5), NEUTRAL, -0.08)
    kept = f"kept: the {values.get('kept')} epoch"
    ax.text(88, 2.2, kept, ha="center", fontsize=8)
    return figure


def _cell(ax, x, y, width, height, text, colour) -> None:
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=1", facecolor=colour, edgecolor=NEUTRAL
        )
    )
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5)


def draw_summary(table: pd.DataFrame):
    """Layers, output shapes and parameters of each network, as Keras lists them."""
    parts = list(table.groupby("experiment", sort=False))
    lines = max(len(part) for _, part in parts) + 5
    figure, axes = new_figure(5.4 * len(parts), 0.19 * lines + 0.3, columns=len(parts))
    for ax, (name, part) in zip([axes] if len(parts) == 1 else axes, parts, strict=True):
        ax.set(xlim=(0, 1), ylim=(lines, 0))
        ax.axis("off")
        ax.set_title(f"Model: {name}", loc="left", fontweight="bold")

        def write(line: float, left: str, middle: str, right: str, ax=ax, **style):
            style = {"fontsize": 7.8, "family": "monospace", "va": "center"} | style
            ax.text(0.0, line, left, **style)
            ax.text(0.62, line, middle, **style)
            ax.text(1.0, line, right, ha="right", **style)

        write(0.5, "Layer (type)", "Output shape", "Param #", fontweight="bold")
        ax.axhline(1, color="black", linewidth=0.8)
        for line, row in enumerate(part.to_dict("records")):
            shape = [row[key] for key in ("height", "width", "channels") if not pd.isna(row[key])]
            text = f"(None, {', '.join(str(int(length)) for length in shape)})"
            write(line + 1.6, f"{row['layer'][:20]} ({row['type'][:22]})", text, f"{row['parameters']:,}")
        end = len(part) + 1.1
        ax.axhline(end, color="black", linewidth=0.8)
        trainable, total = int(part["trainable"].sum()), int(part["parameters"].sum())
        named = (("Total params", total), ("Trainable params", trainable), ("Non-trainable params", total - trainable))
        for number, (text, value) in enumerate(named):
            write(end + 0.6 + number, text, "", f"{value:,}")
    return figure
