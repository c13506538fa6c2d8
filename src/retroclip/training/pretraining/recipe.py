"""Pre-training recipes as data: every field of them can be set on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Area = Annotated[float, Field(gt=0, le=1)]


class Source(BaseModel):
    """One data set: `share` images of it in every batch, trained by its captions or by its labels.

    Its last `holdout` rows stay out of training; `limit` reads only its first rows.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    file: str
    share: Count
    text: Literal["captions", "labels"] = "captions"
    limit: Count | None = None
    holdout: int = Field(default=0, ge=0)


class Watched(BaseModel):
    """A zero-shot task measured while training goes on, on every so many rows of `file` (with a split)."""

    model_config = ConfigDict(extra="forbid")
    task: str
    file: str
    template: str = "a photo of a {}."
    every: Count = 1


class Figure(BaseModel):
    """A matrix of cosines between sample pairs, drawn at the end: `count` captioned rows of `file`, here or in `data`.

    The figure shows the pictures: for one that is published, name openly licensed ones.
    """

    model_config = ConfigDict(extra="forbid")
    file: str
    count: int = 7


class PretrainRecipe(BaseModel):
    """What trains a model; `data`: the folder of the sources' files, `work`: where a killed run finds what it had.

    `model` is an architecture's name, one of open_clip's or ours, or an open_clip configuration written out.
    `text_tower` is a folder with a Hugging Face tower's config.json and tokenizer, in place of a hub name.
    `cache_size`: shorter side at which the images are kept in `work`. `crop`, `jitter`, `coarse`, `rand_augment`: see
    `views`. `micro_batch`: rows encoded at a time (`in_chunks`), for large batches in small memory. `shard`: shares of
    weights, gradients and optimiser state on each of several processes (`sharding`). `classifier`: iCAR's text encoder
    as meta classifier ("text"), or split heads of their own.
    """

    model_config = ConfigDict(extra="forbid")
    kind: str
    model: str | dict[str, Any]
    text_tower: Path | None = None
    data: Path
    work: Path
    out: Path
    sources: list[Source]
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    steps: Count
    lr: Positive = 5e-4
    betas: tuple[Below1, Below1] = (0.9, 0.99)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=0, ge=0)
    grad_clip: Positive | None = None
    max_scale: Positive = 100.0
    init_scale: Positive | None = None
    drop_path: Below1 | None = None
    micro_batch: Count | None = None
    shard: bool = False

    cache_size: Count = 128
    crop: tuple[Area, Area] = (0.5, 1.0)
    jitter: Share = 0.0
    coarse: Share = 0.0
    rand_augment: str | None = None

    symmetric: bool = True
    classifier: Literal["text", "cosine", "linear"] = "text"
    negatives: int | None = Field(default=None, ge=0)
    gloss_share: Share = 0.0
    wordnet: Path | None = None
    synsets: dict[str, str] = {}
    descriptions: Path | None = None
    ancestors: float = Field(default=0.0, ge=0)

    watch: list[Watched] = []
    watch_every: Count = 500
    figure: Figure | None = None
    figures: Path | None = None
    save_every: Count = 200
    log_every: Count = 20
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _check(self) -> PretrainRecipe:
        if not self.sources:
            raise ValueError("sources is empty: name at least one data set")
        if len({source.name for source in self.sources}) < len(self.sources):
            raise ValueError("two sources share a name")
        if self.crop[0] > self.crop[1]:
            raise ValueError("crop is the smallest and then the largest share of an image's area")
        if (self.gloss_share or self.ancestors) and not (self.wordnet or self.descriptions):
            raise ValueError("gloss_share and ancestors need `wordnet` (a folder with data.noun) or `descriptions`")
        if self.ancestors and not self.wordnet:
            raise ValueError("ancestors needs `wordnet`, a folder with data.noun")
        return self


class FormalClipRecipe(PretrainRecipe):
    """Formal CLIP, section 4.2: AdamW β (0.9, 0.99), lr 5e-4, τ learnt from 0.07.

    Its batch of 128 and its 2,000 warm-up steps are in recipes/formal-clip.yaml; without `warmup` there is none.
    """

    kind: Literal["formal-clip"]


class IcarRecipe(PretrainRecipe):
    """iCAR, section 4.1: image → text only, lr 2e-4, weight decay .01, RandAugment, drop-path .1, gradient norm 5."""

    kind: Literal["icar"]
    lr: Positive = 2e-4
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    grad_clip: Positive | None = 5.0
    symmetric: bool = False
    init_scale: Positive | None = 20.0
    drop_path: Below1 | None = 0.1
    gloss_share: Share = 1.0
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"


class RaClipRecipe(PretrainRecipe):
    """RA-CLIP: `reference` of the captioned pairs are held out as reference set, looked up by `retriever`.

    `retriever` is a model reference, whose image tower stays frozen. k neighbours, `blocks` RAM blocks. `length` is
    what the image's embedding has before anything is added to it.
    """

    kind: Literal["ra-clip"]
    retriever: str = "builtin"
    reference: float = Field(default=0.1, gt=0, lt=1)
    k: Count = 8
    blocks: Count = 1
    heads: Count = 8
    length: Positive = 1.0
