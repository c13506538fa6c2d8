"""The builtin's recipe as data: every field of it can be set on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Source(BaseModel):
    """One data set: `share` images of it in every batch, trained by its captions, its labels, or the teacher alone.

    `views` are the image and crops of it, `coarse` adds one of few pixels. Its last `holdout` rows stay out of
    training, to choose by; `limit` reads only its first rows.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    file: str
    share: int
    text: Literal["captions", "labels", "none"] = "none"
    distil: bool = True
    views: int = 1
    scale: tuple[float, float] = (0.5, 1.0)
    limit: int | None = None
    holdout: int = 0
    coarse: bool = False


class BuiltinRecipe(BaseModel):
    """What makes the model; `data`: the folder of the sources' files, `work`: where a killed run finds what it had."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["builtin"]
    data: Path
    work: Path
    out: Path
    image_weights: str
    text_weights: str
    wordnet: Path
    sources: list[Source]
    vocabulary: int = 23_000
    steps: int = 500
    lr: float = 1e-3
    text_lr_scale: float = 0.05
    frozen_text_layers: int = 3
    weight_decay: float = 0.1
    warmup: int = 50
    grad_clip: float = 1.0
    drop_path: float = 0.1
    patch_drop: float = 0.25
    map_drop: float = 0.3
    coarse_share: float = 0.3
    caption_weight: float = 2.0
    relation_weight: float = 2.0
    label_mix: float = 0.5
    bank_every: int = 25
    seed: int = 0
