"""RA-CLIP's image tower with its reference set: pairs embedded once by a frozen retriever, read by RAM blocks."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retroclip.encoders import load, register_loader
from retroclip.encoders.fingerprint import hash_weights
from retroclip.encoders.images import image_size
from retroclip.encoders.saving import appearing_whole, check_target
from retroclip.errors import ModelError
from retroclip.fusion.ram import RetrievalAugmentation
from retroclip.memory.exact import exact_search

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

LOADER, BASE, WEIGHTS, CARD = "reference-encoder", "base", "fusion.safetensors", "retroclip.json"


class ReferenceAugmentation(nn.Module):
    """RAM blocks over k pairs of a reference set, whose frozen embeddings (R, r) two linear maps take to (R, dim).

    The maps are ours: the paper's embeddings have the towers' dimension [D]. What is frozen is neither a parameter nor
    in the state dict; `reference` is its copy for saving.
    """

    def __init__(
        self,
        dim: int,
        images: Tensor,
        texts: Tensor,
        *,
        k: int,
        heads: int = 8,
        blocks: int = 1,
        length: float = 1.0,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"dim": dim, "k": k, "heads": heads, "blocks": blocks, "length": length}
        self.k = min(k, len(images))
        self.ram = RetrievalAugmentation(dim, heads, blocks, length)
        self.image_map, self.text_map = (nn.Linear(images.shape[1], dim) for _ in range(2))
        self.reference = (images, texts)

    def without(self, rows: NDArray[np.int64]) -> ReferenceAugmentation:
        """The same module over the other pairs of the reference set; the weights are shared."""
        kept = np.setdiff1d(np.arange(len(self.reference[0])), rows)
        other = copy.copy(self)
        other.reference = (self.reference[0][kept], self.reference[1][kept])
        other.k = min(self.options["k"], len(kept))
        return other

    def nearest(self, queries: Tensor) -> Tensor:
        """The k reference pairs whose images are most similar to the retriever's embeddings (n, r): rows (n, k)."""
        rows = np.arange(len(self.reference[0]))
        return torch.from_numpy(exact_search(queries, self.reference[0], rows, self.k)[0])

    def forward(self, embeddings: Tensor, neighbours: Tensor) -> Tensor:
        """Unit-norm embeddings (n, dim) and their pairs' rows (n, k) → augmented ones (n, dim), unit norm.

        Without a pair (k = 0) they stay as they are.
        """
        if not neighbours.numel():
            return embeddings
        images, texts = (part[neighbours.cpu()].to(embeddings.device) for part in self.reference)
        return self.ram(embeddings, self.text_map(texts), keys=self.image_map(images))


class ReferenceEncoder:
    """An Encoder whose images are augmented by a reference set; texts are the base encoder's (RA-CLIP).

    The retriever has its own preprocessing: pixels are what `preprocess` makes, both encoders' in one row. A view of an
    image, such as probes learn from, is looked up by what the retriever sees of the view [D].

    `thumbnails` (R, 768) show the reference set's images (`pairs.thumbnail`), to tell whether one is evaluated.
    """

    consults = "its reference set"
    loaded_from: str | None = None

    def __init__(
        self,
        base: Encoder,
        retriever: Encoder,
        augmentation: ReferenceAugmentation,
        reference: str,
        thumbnails: Tensor | None = None,
    ) -> None:
        self.base, self.retriever, self.augmentation, self.reference = base, retriever, augmentation, reference
        self.name = f"{base.name} + ra-clip"
        self.thumbnails = thumbnails
        self.history: Any = None
        self._whole: ReferenceEncoder | None = None

    @property
    def pairs(self) -> int:
        """How many pairs the reference set has."""
        return len(self.augmentation.reference[0])

    def without(self, rows: NDArray[np.int64]) -> ReferenceEncoder:
        """The same encoder with these pairs of the reference set hidden; itself where there are none."""
        if not len(rows):
            return self
        kept = np.setdiff1d(np.arange(self.pairs), rows)
        other = copy.copy(self)
        other.augmentation, other._whole = self.augmentation.without(rows), self
        other.thumbnails = None if self.thumbnails is None else self.thumbnails[kept]
        return other

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.augmentation.parameters())

    @property
    def fingerprint(self) -> str:
        """Hash of both encoders, the blocks and the reference set; what `without` hides makes no difference."""
        if self._whole is not None:
            return self._whole.fingerprint
        digest = hashlib.blake2b(digest_size=16)
        # A length of 1 is not told, so that models from before there were others keep their fingerprint.
        options = {k: v for k, v in self.augmentation.options.items() if (k, v) != ("length", 1.0)}
        described = [self.base.fingerprint, self.retriever.fingerprint, options]
        digest.update(json.dumps(described, sort_keys=True).encode())
        hash_weights(digest, self.augmentation)
        for part in self.augmentation.reference:
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)  # texts, tokenizer, dim, logit_scale, …

    def preprocess(self, image: Image.Image) -> Tensor:
        """The base encoder's pixels of an image and then the retriever's, flat: (3·H·W + 3·h·w,)."""
        return torch.cat([one.preprocess(image).flatten() for one in (self.base, self.retriever)])

    @torch.no_grad()
    def encode_images(self, images: Sequence[Any] | Tensor, *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """As `Encoder.encode_images`, but preprocessed images are rows of `preprocess`: (n, d) float32, unit norm.

        Raises ModelError for one encoder's pixels (n, 3, H, W).
        """
        return self.augment(*self.look_up(images, batch_size=batch_size, progress=progress))

    def look_up(
        self, images: Sequence[Any] | Tensor, *, batch_size: int = 64, progress: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What `augment` takes: the base encoder's embeddings (n, d) and the rows (n, k) of the pairs found."""
        seen, looked_up = self._seen(images) if isinstance(images, Tensor) else (images, images)
        plain = self.base.encode_images(seen, batch_size=batch_size, progress=progress)
        if not len(images):
            return plain, torch.zeros(0, self.augmentation.k, dtype=torch.long)
        return plain, self.augmentation.nearest(self.retriever.encode_images(looked_up, batch_size=batch_size))

    @torch.no_grad()
    def augment(self, plain: Tensor, neighbours: Tensor) -> Tensor:
        """Embeddings (n, d) of unit norm from the base encoder's and the rows (n, k) of reference pairs."""
        training = self.augmentation.training
        self.augmentation.eval()
        augmented = self.augmentation(plain, neighbours)
        self.augmentation.train(training)
        return augmented

    def _seen(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of `preprocess` (n, p) as pixels for the base encoder and for the retriever."""
        shapes = [(3, *image_size(one.preprocess_cfg)) for one in (self.base, self.retriever)]
        sizes = [math.prod(shape) for shape in shapes]
        if rows.ndim != 2 or rows.shape[1] != sum(sizes):
            raise ModelError(
                f"{self.name} looks images up in its reference set: give it images, or what its own `preprocess` makes "
                f"of them, not pixels {tuple(rows.shape)}"
            )
        ours, theirs = (part.unflatten(1, shape) for part, shape in zip(rows.split(sizes, 1), shapes, strict=True))
        return ours, theirs

    def save(self, directory: str | Path) -> Path:
        """Write the towers into `base/`, blocks and reference set beside them, and the retriever's reference."""
        card = {
            "format": 1,
            "kind": LOADER,
            "options": self.augmentation.options,
            "retriever": self.reference,
            "retriever_fingerprint": self.retriever.fingerprint,
        }
        images, texts = self.augmentation.reference
        tensors = {name: value.contiguous() for name, value in self.augmentation.state_dict().items()}
        tensors |= {"reference.images": images, "reference.texts": texts}
        if self.thumbnails is not None:
            tensors["reference.thumbnails"] = self.thumbnails
        with appearing_whole(directory) as scratch:
            self.base.save(scratch / BASE)
            save_file(tensors, scratch / WEIGHTS)
            (scratch / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        return check_target(directory)


def load_reference_encoder(directory: str | Path, **options: Any) -> ReferenceEncoder:
    """What `ReferenceEncoder.save` wrote; `options` go to `load` of both encoders.

    Raises ModelError if the retriever is another model than the one that embedded the reference set.
    """
    directory = Path(directory)
    card = json.loads((directory / CARD).read_text(encoding="utf-8"))
    retriever = load(card["retriever"], **options)
    if retriever.fingerprint != card["retriever_fingerprint"]:
        raise ModelError(
            f"{directory}: its retriever {card['retriever']} has changed; train anew, or put the old one back"
        )
    tensors = load_file(directory / WEIGHTS)
    thumbnails = tensors.pop("reference.thumbnails", None)
    augmentation = ReferenceAugmentation(
        images=tensors.pop("reference.images"), texts=tensors.pop("reference.texts"), **card["options"]
    )
    augmentation.load_state_dict(tensors)
    base = load(directory / BASE, **options)
    return ReferenceEncoder(base, retriever, augmentation.eval(), card["retriever"], thumbnails)


register_loader(LOADER, load_reference_encoder)
