"""The encoder that consults a memory: what RECO, RA-CLIP and the mean of neighbours are once they are built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from retroclip.encoders import load, register_loader
from retroclip.encoders.fingerprint import hash_weights
from retroclip.encoders.saving import appearing_whole, check_target
from retroclip.errors import ModelError
from retroclip.fusion.base import Fusion
from retroclip.fusion.centred import CentredMeanFusion
from retroclip.fusion.mean import MeanFusion
from retroclip.fusion.neighbours import (
    Neighbours,
    as_own_neighbours,
    find_neighbours,
    gathered,
    has_captions,
    looked_at,
)
from retroclip.fusion.ram import RetrievalAugmentation
from retroclip.fusion.reco import RecoFusion
from retroclip.fusion.relevance import Density, as_relevant, relevance
from retroclip.retrieval import neighbours as neighbours_of_pairs

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.memory import Memory
    from retroclip.memory.opened import Modality

LOADER, BASE, WEIGHTS, CARD = "memory-encoder", "base", "fusion.safetensors", "retroclip.json"
KINDS: dict[str, type[Fusion]] = {
    "mean": MeanFusion,
    "centred-mean": CentredMeanFusion,
    "reco": RecoFusion,
    "ra-clip": RetrievalAugmentation,
}


class MemoryEncoder:
    """A base encoder, a memory made by it and a fusion: an Encoder whose embeddings are refined by their neighbours.

    Raises MemoryStoreError if the memory was made by another model or has no captions at all; single pairs without
    caption are passed over. Refined texts are remembered: a task's class texts are searched and fused once.

    `search` and `values` are RECO's ablation: uni-modal search looks among keys of the query's own modality (image →
    images), cross-modal values are the found pairs' embeddings of the other one (→ their texts). `values="query"` hands
    the fusion the query itself instead of neighbours: the same capacity without retrieval, a control.

    `relevance` above 0 leaves a query as it is as far as its neighbours lie farther off than the memory's own pairs lie
    from theirs (`fusion.relevance`, whose β it is): a memory about one task then leaves others alone [D].

    `products` says in which number format its training multiplied ("bf16", "fp32"), chosen by a timing: two machines'
    weights may differ by its rounding. None where nothing was trained.
    """

    consults = "a memory"
    loaded_from: str | None = None

    def __init__(
        self,
        base: Encoder,
        memory: Memory,
        fusion: Fusion,
        k: int = 10,
        k_text: int | None = None,
        *,
        search: str = "uni-modal",
        values: str = "cross-modal",
        relevance: float = 0.0,
    ) -> None:
        memory.check_encoder(base)
        self.base, self.memory, self.fusion = base, memory, fusion
        self.name = f"{base.name} + {self.kind}"
        fusion.eval()
        self.k, self.k_text, self.search, self.values = k, k_text or k, search, values
        self.sharpness = 0.0 if values == "query" else relevance
        self.where = has_captions(memory)
        self._density: Density | None = None
        self.history: Any = None
        self.products: str | None = None
        self._texts: dict[str, Tensor] = {}

    @property
    def kind(self) -> str:
        """The fusion's name on the command line, one of `KINDS`."""
        return next(kind for kind, cls in KINDS.items() if type(self.fusion) is cls)

    @property
    def fingerprint(self) -> str:
        """Hash of the base's fingerprint, the fusion and its settings, and the memory's id and version.

        Not kept: training changes the fusion and `refresh` the memory. What `MemoryWithout` hides makes no difference.
        """
        digest = hashlib.blake2b(digest_size=16)
        described = [self.base.fingerprint, self.kind, self.fusion.options, self._settings]
        digest.update(json.dumps([*described, self.memory.id, self.memory.version], sort_keys=True).encode())
        hash_weights(digest, self.fusion)
        return digest.hexdigest()

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.fusion.parameters())

    def __getattr__(self, name: str) -> Any:
        # What fusion doesn't change (model, preprocess, tokenizer, dim, logit_scale, …) is the base encoder's.
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def encode_images(self, images: Sequence[Any] | Tensor, **options: Any) -> Tensor:
        """As `Encoder.encode_images`: (n, d) float32, unit norm, refined by the memory."""
        return self.refine_images(self.base.encode_images(images, **options))

    def refine_images(self, embeddings: Tensor) -> Tensor:
        """The base encoder's image embeddings (n, d) → refined ones: what `encode_images` does after embedding."""
        return self.refine(embeddings, "image")

    def encode_texts(self, texts: Sequence[str], **options: Any) -> Tensor:
        """As `Encoder.encode_texts`; a text met before is not searched again."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if fresh:
            refined = self.refine(self.base.encode_texts(fresh, **options), "text")
            self._texts.update(zip(fresh, refined, strict=True))
        return torch.stack([self._texts[text] for text in texts]) if len(texts) else torch.zeros(0, self.base.dim)

    @torch.no_grad()
    def refine(
        self, embeddings: Tensor, side: Modality, *, exclude: Sequence[Any] | None = None, batch: int = 1024
    ) -> Tensor:
        """Embeddings (n, d) of one modality → refined ones; a side the fusion leaves alone comes back as it is."""
        if side not in self.fusion.sides or not len(embeddings):
            return embeddings
        refined = []
        for start in range(0, len(embeddings), batch):
            query = embeddings[start : start + batch]
            skip = None if exclude is None else exclude[start : start + batch]
            k = self.k if side == "image" else self.k_text
            found = self.neighbours(query, side, k=k, exclude=skip)
            refined.append(self.fused(query, found, side, self.relevant(found, side)))
        return torch.cat(refined)

    def fused(self, query: Tensor, found: Neighbours, side: Modality, relevant: Tensor | None) -> Tensor:
        """The fusion's answer for queries (n, d), as far as their neighbours are `relevant` (n,); None: fully."""
        refined = self.fusion(query, found.values, keys=found.keys, side=side, mask=found.mask, scores=found.scores)
        return refined if relevant is None else as_relevant(query, refined, relevant)

    def relevant(self, found: Neighbours, side: Modality) -> Tensor | None:
        """How far neighbours of modality `side`'s queries count, (n,) in [0, 1]; None where that isn't asked."""
        if not self.sharpness:
            return None
        usual, spread = self.density.usual(side, found.ids), self.density.spread(side)
        return relevance(found.scores, usual, spread, self.sharpness, found.mask)

    @property
    def density(self) -> Density:
        """How near the memory's pairs lie to each other, from searches with the settings of this encoder."""
        if self._density is None:
            rows = self.memory.ids()[np.asarray(self.memory.has_text())]
            self._density = Density(rows, self._own_neighbours)
        return self._density

    def _own_neighbours(self, rows: np.ndarray, side: Modality) -> tuple[Tensor, np.ndarray]:
        queries, images = (self.memory.embeddings(rows, of=of) for of in (side, "image"))
        found = self.others(queries, side, images=images, itself=rows)
        return found.scores, found.ids

    def others(self, queries: Tensor, side: Modality, *, images: Tensor, itself: np.ndarray | None) -> Neighbours:
        """Neighbours of pairs that may be in the memory: without their own rows `itself` and copies of their `images`.

        queries and images: (n, d), the pairs' embeddings of modality `side` and their images'.
        """
        k = self.k if side == "image" else self.k_text
        if self.values == "query":
            return as_own_neighbours(queries, k)
        near = neighbours_of_pairs(
            self.memory,
            self.fusion.asking(queries, side),
            by=looked_at(side, self.search),
            k=k,
            where=self.where,
            exclude_self_ids=itself,
            images=images,
        )
        return gathered(self.memory, near.ids, near.scores, side=side, values=self.values)

    def neighbours(
        self, queries: Tensor, side: Modality, *, k: int, exclude: Sequence[Any] | None = None
    ) -> Neighbours:
        """What this encoder's fusion gets to see for queries (n, d) of modality `side`."""
        options: dict[str, Any] = {"where": self.where, "search": self.search, "values": self.values}
        if self.values == "query":
            return as_own_neighbours(queries, k)
        asking = self.fusion.asking(queries, side)
        return find_neighbours(self.memory, asking, side=side, k=k, exclude=exclude, **options)

    def with_memory(self, memory: Memory) -> MemoryEncoder:
        """The same fusion over another memory: knowledge is swapped without training."""
        swapped = MemoryEncoder(self.base, memory, self.fusion, **self._settings)
        swapped.name, swapped.products = self.name, self.products
        return swapped

    @property
    def _settings(self) -> dict[str, Any]:
        settings = {"k": self.k, "k_text": self.k_text, "search": self.search, "values": self.values}
        return settings | {"relevance": self.sharpness}

    def save(self, directory: str | Path) -> Path:
        """Write the fusion, and the base encoder in `base/`; returns the folder, which `retroclip.load` opens.

        The memory isn't copied: its path is written down, and `load_memory_encoder` takes another one if it moved. The
        folder appears whole; a model already saved there is replaced, anything else there raises ModelError.
        """
        from retroclip.memory import absolute

        card = {
            "format": 1,
            "kind": LOADER,
            "fusion": self.kind,
            "options": self.fusion.options,
            "settings": self._settings,
            "memory": absolute(self.memory.path),
            "products": self.products,
        }
        tensors = {name: value.contiguous() for name, value in self.fusion.state_dict().items()}
        with appearing_whole(directory) as scratch:
            self.base.save(scratch / BASE)
            save_file(tensors, scratch / WEIGHTS)
            (scratch / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        return check_target(directory)


def build_fusion(kind: str, **options: Any) -> Fusion:
    """A fresh fusion by its name. Raises ModelError for a kind that doesn't exist."""
    if kind not in KINDS:
        raise ModelError(f"no fusion is called {kind!r}: choose one of {', '.join(KINDS)}")
    return KINDS[kind](**options)


def load_memory_encoder(
    directory: str | Path, *, base: Encoder | None = None, memory: Memory | None = None, **options: Any
) -> MemoryEncoder:
    """What `MemoryEncoder.save` wrote; `options` go to `load` of the base encoder.

    `base` and `memory` stand in for the saved ones. Raises MemoryStoreError if the memory has moved or has changed its
    model.
    """
    directory = Path(directory)
    card = json.loads((directory / CARD).read_text(encoding="utf-8"))
    base = load(directory / BASE, **options) if base is None else base
    fusion = build_fusion(card["fusion"], **card["options"])
    fusion.load_state_dict(load_file(directory / WEIGHTS))
    if memory is None:
        from retroclip.memory import Memory

        memory = Memory.open(card["memory"])
    made = MemoryEncoder(base, memory, fusion, **card["settings"])
    made.products = card.get("products")
    return made


register_loader(LOADER, load_memory_encoder)
