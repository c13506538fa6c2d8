"""The Encoder: a CLIP-like model with its preprocessing, tokenizer and precision, behind two functions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from torch.nn.functional import normalize

from retroclip.encoders.fingerprint import fingerprint
from retroclip.encoders.images import ImageLike, batches_ahead, image_batches
from retroclip.encoders.precision import DTYPES, cast, choose_device, choose_precision
from retroclip.encoders.texts import encode_tokens, text_lengths
from retroclip.errors import ModelError
from retroclip.progress import counted, encodings_shown


class Encoder:
    """Images and texts to unit-norm embeddings in one space.

    `model` is the open_clip module (any of its classes, gated or not), in eval mode and with weights in `precision`;
    `model_cfg` and `preprocess_cfg` are open_clip's configuration dictionaries, which is all that `save` needs besides.
    `history` and `trained_parameters` say how it was customized, if it was; they aren't saved. `loaded_from` is a
    reference that `load` finds it by from any working directory; None for a model made here.

    >>> images = encoder.encode_images(["photos/00.jpg", "photos/01.jpg"])
    >>> tuple((images @ encoder.encode_texts(["a red bus"]).T).shape)
    (2, 1)
    """

    history: Any = None
    loaded_from: str | None = None
    trained_parameters: int = 0

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        model_cfg: dict[str, Any],
        preprocess_cfg: dict[str, Any],
        precision: str = "fp32",
        device: str | torch.device | None = None,
    ) -> None:
        self.name = name
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device, model)
        self.trains_in_bf16 = choose_precision(precision, self.device) == "bf16"  # whatever the embeddings need
        self.model_cfg = model_cfg
        self.preprocess_cfg = preprocess_cfg
        self.tokenizer = tokenizer
        set_model_preprocess_cfg(model, preprocess_cfg)
        self.preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
        self.model: Any = cast(model.to(self.device), self.precision).eval()
        self._channels_last = has_convolutions(model)
        if self._channels_last:
            self.model.to(memory_format=torch.channels_last)

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, dim={self.dim}, precision={self.precision!r}, device={str(self.device)!r})"

    @property
    def dim(self) -> int:
        """The embedding's dimension d."""
        return int(self.model_cfg["embed_dim"])

    @property
    def logit_scale(self) -> float:
        """exp(logit_scale), that is 1/τ."""
        return float(self.model.logit_scale.detach().float().exp())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, architecture, tokenizer and preprocessing; the same for every precision and device.

        Computed at first use and kept: whoever changes weights makes a new Encoder (`with_model`).
        """
        return fingerprint(self.model, self.model_cfg, self.preprocess_cfg, self.tokenizer)

    def with_model(self, model: nn.Module, *, name: str | None = None, precision: str | None = None) -> Encoder:
        """An encoder around another model of the same configuration (trained, gated), which is cast in place."""
        return Encoder(
            name or self.name,
            model,
            self.tokenizer,
            model_cfg=self.model_cfg,
            preprocess_cfg=self.preprocess_cfg,
            precision=precision or self.precision,
            device=self.device,
        )

    def copy(self, *, precision: str | None = None) -> Encoder:
        """An independent copy, in another precision if asked (bf16 → fp32 doesn't undo the rounding)."""
        copied = self.with_model(copy.deepcopy(self.model), precision=precision)
        copied.loaded_from = self.loaded_from
        return copied

    def encode_images(
        self, images: Sequence[ImageLike] | Tensor, *, batch_size: int = 64, progress: bool = False
    ) -> Tensor:
        """Embed encoded images (bytes, paths), PIL images, or preprocessed pixels (n, 3, H, W).

        Returns (n, d) float32 on the CPU, rows of unit norm. Raises BadImageError at the first image that can't be
        decoded, ModelError if the model gives numbers that aren't finite.
        """
        if not len(images):
            return torch.zeros(0, self.dim)
        if isinstance(images, Tensor):
            batches: Iterator[Tensor] = iter(images.split(batch_size))
        else:
            batches = image_batches(images, self.preprocess, batch_size, ahead=batches_ahead(self.device))
        rows = []
        shown = encodings_shown() if progress else nullcontext()
        with shown, counted(len(images), "images") as done, self._inference():
            for batch in batches:
                rows.append(self._finish(self.encode_pixels(batch), "image"))
                done(len(batch))
        return torch.cat(rows)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image features (b, d), in the model's precision, of preprocessed pixels (b, 3, H, W)."""
        pixels = pixels.to(self.device, DTYPES[self.precision])
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.model.encode_image(pixels)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Embed texts: (n, d) float32 on the CPU, unit norm; raises ModelError if the model gives non-finite numbers.

        Batches are formed by length, and run only as far as their longest text where that is exact (`texts`).
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a sequence of texts, not one text: write [text]")
        if not len(texts):
            return torch.zeros(0, self.dim)
        chunk = 4096
        tokens = torch.cat([self.tokenizer(list(texts[i : i + chunk])) for i in range(0, len(texts), chunk)])
        lengths = text_lengths(self.model, tokens)
        order = lengths.argsort(stable=True)
        rows = torch.empty(len(texts), self.dim)
        with counted(len(texts), "texts") as done, self._inference():
            for batch in order.split(batch_size):
                trimmed = tokens[batch, : int(lengths[batch].max())].to(self.device)
                rows[batch] = self._finish(encode_tokens(self.model, trimmed), "text")
                done(len(batch))
        return rows

    def save(self, directory: str | Path, *, dtype: str = "fp32") -> Path:
        """Write the model as a directory that `load`, and for plain models open_clip, reads; see `saving.save`."""
        from retroclip.encoders.saving import save

        return save(self, directory, dtype=dtype)

    def _finish(self, features: Tensor, kind: str) -> Tensor:
        rows = features.float()
        norms = rows.norm(dim=-1)
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            advice = 'load it with precision="fp32"' if self.precision != "fp32" else "its weights are damaged"
            raise ModelError(f"{self.name} gave {kind} embeddings that aren't finite ({self.precision}): {advice}")
        return normalize(rows, dim=-1).cpu()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # no_grad rather than inference_mode: what comes out is trained on (fusion, classifiers).
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)


def has_convolutions(model: nn.Module) -> bool:
    """Whether the image tower is more convolutional than one patch embedding; those run faster with channels last."""
    tower = model.visual
    if isinstance(tower, ModifiedResNet):
        return True
    return isinstance(tower, TimmModel) and sum(isinstance(m, nn.Conv2d) for m in tower.modules()) > 1
