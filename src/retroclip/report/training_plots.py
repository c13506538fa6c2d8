"""What a pre-training run looked like, as PNG: its loss, its accuracy on the way, and sample pairs side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from retroclip.pairs import Pair, decode_image, read_pairs

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS = ("step", "epoch", "lr", "seconds", "logit_scale")
TERMS = ("loss", "contrast", "ancestors", "caption", "label", "bank", "relation")


def plot_training(rows: Sequence[dict[str, float]], file: Path) -> None:
    """Loss terms over the steps, and under them whatever else was measured on the way (accuracies, in %)."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NUMBERS)
    terms = [name for name in names if name in TERMS]
    measured = [name for name in names if name not in TERMS]
    figure = Figure(figsize=(6, 5 if measured else 3), layout="constrained")
    axes = figure.subplots(2 if measured else 1, squeeze=False, sharex=True)[:, 0]
    for name in terms:
        _line(axes[0], rows, name, 1.0)
    axes[0].set_ylabel("loss")
    for name in measured:
        _line(axes[-1], rows, name, 100.0, marker="o")
    if measured:
        axes[-1].set_ylabel("zero-shot top-1, %")
        axes[-1].set_ylim(bottom=0)
    axes[-1].set_xlabel("step")
    for each in axes:
        each.legend(frameon=False)
        each.grid(alpha=0.3)
    figure.savefig(file, dpi=100)


def _line(axes: Any, rows: Sequence[dict[str, float]], name: str, factor: float, **style: Any) -> None:
    shown = [(row["step"], factor * row[name]) for row in rows if name in row]
    axes.plot(*zip(*shown, strict=True), label=name, linewidth=1.2, **style)


def sample_pairs(source: str, count: int) -> list[Pair]:
    """`count` captioned pairs of a source, evenly spread over it."""
    pairs = [pair for pair in read_pairs(source) if isinstance(pair, Pair) and pair.image and pair.captions]
    return [pairs[row] for row in np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)]


def plot_similarities(pairs: Sequence[Pair], cosines: Tensor, file: Path) -> None:
    """Images across, captions down, their cosines (n, n) between (Formal CLIP, Figures 2, 6 and 7)."""
    n = len(pairs)
    figure = Figure(figsize=(3.2 + 0.8 * n, 1.2 + 0.75 * n), layout="constrained")
    grid = figure.add_gridspec(n + 1, n, height_ratios=[1, *[0.9] * n])
    for column, pair in enumerate(pairs):
        assert pair.image is not None
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(np.asarray(decode_image(pair.image)))
        axes.axis("off")
    matrix = figure.add_subplot(grid[1:, :])
    matrix.imshow(cosines.numpy(), cmap="viridis", aspect="auto")
    middle = (float(cosines.max()) + float(cosines.min())) / 2
    for row in range(n):
        for column in range(n):
            value = float(cosines[row, column])
            matrix.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                color="black" if value > middle else "white", weight="bold" if row == column else "normal",
            )  # fmt: skip
    matrix.set_xticks([])
    matrix.set_yticks(range(n), [textwrap.fill(str(pair.caption), 30) for pair in pairs], fontsize=7)
    figure.savefig(file, dpi=80)
