"""An image tower as ONNX, alone or with the classes of a task, checked against the model it came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from retroclip.encoders.consulting import refuse_consulting
from retroclip.encoders.features import FeatureEncoder, feature_tap, tapped
from retroclip.encoders.images import image_size
from retroclip.encoders.saving import appearing_whole
from retroclip.errors import ModelError

if TYPE_CHECKING:
    from retroclip.encoders.encoder import Encoder

MODEL_FILE, CARD_FILE = "model.onnx", "card.json"
TOLERANCE = 1e-4
"""Largest difference of any number to the model's own in fp32."""
OPSET = 18
CHECKED = (1, 3)  # batch sizes


class ImageToProbabilities(nn.Module):
    """Preprocessed pixels (B, 3, H, W) → unit-norm embeddings (B, d), and probabilities (B, K) where there are classes.

    `head` gives the logits of embeddings, or with `features` of embeddings and features (B, d + f), as a
    `FeatureEncoder` gives them.
    """

    def __init__(self, model: Any, head: nn.Module | None, *, features: bool = False) -> None:
        super().__init__()
        self.model, self.head = model, head
        self._tap = feature_tap(model.visual) if features else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if self._tap is None:
            embedding = rows = self._embedding(pixels)
        else:
            with tapped(self._tap) as seen:
                embedding = self._embedding(pixels)
            rows = torch.cat([embedding, *seen], dim=1)
        return (embedding,) if self.head is None else (embedding, self.head(rows).softmax(dim=-1))

    def _embedding(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.model.encode_image(pixels), dim=-1)


def export_onnx(
    encoder: Encoder, directory: str | Path, *, head: nn.Module | None = None, classes: Sequence[str] = ()
) -> float:
    """Write `model.onnx` and `card.json` (preprocessing, classes) to a directory that appears whole.

    `head` makes logits (B, K) of what `encoder` makes of images; `classifiers.as_module` gives that of a classifier.
    Returns the largest difference to the model in fp32, over random images in batches of 1 and 3. Raises ModelError for
    a model that consults a memory or a reference set, one that can't be traced, a difference over `TOLERANCE`, and
    without onnxruntime.
    """
    refuse_consulting(encoder, "export the model beneath it")
    _required()
    exact = encoder.copy(precision="fp32")
    module = ImageToProbabilities(exact.model, head, features=isinstance(encoder, FeatureEncoder)).eval().cpu()
    height, width = image_size(encoder.preprocess_cfg)
    names = ["embedding"] + (["probability"] if head is not None else [])
    card: dict[str, Any] = {
        "inputs": {"pixels": ["batch", 3, height, width]},
        "outputs": names,
        "preprocessing": encoder.preprocess_cfg,
        "classes": list(classes),
        "model": encoder.name,
        "fingerprint": encoder.fingerprint,
    }
    with appearing_whole(directory) as scratch:
        _write(module, (height, width), names, scratch / MODEL_FILE)
        difference = largest_difference(module, scratch / MODEL_FILE, (height, width))
        if not difference <= TOLERANCE:
            raise ModelError(f"the exported model differs by {difference:.1e} (allowed: {TOLERANCE:.0e}): not written")
        # Marks the directory as ours, so that a second export may replace it.
        (scratch / "retroclip.json").write_text(json.dumps({"format": 1, "kind": "onnx"}) + "\n", encoding="utf-8")
        card["largest_difference"] = difference
        (scratch / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return difference


def largest_difference(module: nn.Module, file: Path, size: tuple[int, int]) -> float:
    """The largest absolute difference between a module's outputs and those of its ONNX file, on random pixels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = 0.0
    generator = torch.Generator().manual_seed(0)
    for batch in CHECKED:
        pixels = torch.randn(batch, 3, *size, generator=generator)
        with torch.no_grad():
            expected = module(pixels)
        for ours, theirs in zip(expected, session.run(None, {"pixels": pixels.numpy()}), strict=True):
            found = max(found, float((ours - torch.from_numpy(theirs)).abs().max()))
    return found


def _write(module: nn.Module, size: tuple[int, int], names: list[str], file: Path) -> None:
    try:
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, *size),),
            str(file),
            input_names=["pixels"],
            output_names=names,
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=4096)}},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    except OSError:
        raise  # of the disk, not of the model
    except Exception as error:  # the exporter raises whatever it meets
        first = " ".join(str(error).split())[:160] or type(error).__name__
        raise ModelError(f"this model can't be exported as ONNX ({type(error).__name__}: {first})") from error


def _required() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"ONNX needs the package {error.name}: pip install 'retroclip[onnx]'") from None
