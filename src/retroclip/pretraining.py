"""A pre-training run with its record: the history as JSON and, where the recipe asks for them, figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retroclip.training.distributed import is_main
from retroclip.training.loop import History
from retroclip.training.pretrain import read_recipe, run_recipe


def train_and_record(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    out: Path | None = None,
    on_progress: Callable[[str], None] = print,
) -> History:
    """`run_recipe`, then NAME.json, NAME.png and NAME-pairs.png in the recipe's folder `figures`, if it names one.

    NAME is the recipe file's. Raises as `run_recipe` does.
    """
    history = run_recipe(path, overrides, out, on_progress)
    recipe = read_recipe(path, overrides, out)
    figures = getattr(recipe, "figures", None)
    if figures is not None and is_main():
        write_figures(recipe, history, Path(figures), Path(path).stem)
        on_progress(f"figures: {figures}")
    return history


def write_figures(recipe: Any, history: History, folder: Path, name: str) -> None:
    """What `train_and_record` says, for a recipe whose model is at `recipe.out`."""
    from retroclip.encoders import load
    from retroclip.report.training_plots import plot_similarities, plot_training, sample_pairs

    folder.mkdir(parents=True, exist_ok=True)
    rows = [{key: round(value, 5) for key, value in row.items()} for row in history.rows]
    (folder / f"{name}.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    plot_training(history.rows, folder / f"{name}.png")
    if recipe.figure is not None:
        encoder = load(recipe.out, precision="fp32")
        source = Path(recipe.figure.file)
        pairs = sample_pairs(str(source if source.exists() else recipe.data / source), recipe.figure.count)
        images = encoder.encode_images([pair.image for pair in pairs if pair.image])
        texts = encoder.encode_texts([str(pair.caption) for pair in pairs])
        plot_similarities(pairs, texts @ images.T, folder / f"{name}-pairs.png")
