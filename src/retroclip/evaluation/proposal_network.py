"""Proposals of a trained network: the region proposal network of torchvision's Faster R-CNNs, without their classes."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms.functional import pil_to_tensor

from retroclip.encoders.fingerprint import hash_weights
from retroclip.encoders.weights import fit, read_weights
from retroclip.errors import ModelError, SourceError
from retroclip.evaluation.proposals import Proposals

NETWORKS = (
    "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)  # fmt: skip
"""torchvision's detectors; the first is the default. Their own weights were trained on COCO's boxes of all classes."""
PARTS = ("backbone", "rpn")
# torchvision 0.13 put these layers one level deeper; published files have the older names.
RENAMED = (
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
)


class ProposalNetwork:
    """From an image to the boxes (n, 4) of x, y, w, h in its pixels and their objectness (n,), best first.

    Images are scaled as torchvision's detector does (800 pixels on the shorter side, 320 for the smallest); boxes that
    overlap a better one of the same pyramid level by more than 0.7 are gone, and at most 1,000 are left (150 of the
    smallest, which also drops those under 0.05).
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model.eval(), name

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits of the weights that are used."""
        digest = hashlib.blake2b(digest_size=16)
        hash_weights(digest, used_parts(self.model))
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, image: bytes) -> Proposals:
        from retroclip.pairs import decode_image
        from retroclip.training.detector import scored_proposals

        decoded = decode_image(image).convert("RGB")
        images, _ = self.model.transform([pil_to_tensor(decoded).float() / 255])
        found, scores = scored_proposals(self.model.rpn, images, self.model.backbone(images.tensors))
        height, width = images.image_sizes[0]
        scale = np.array([decoded.width / width, decoded.height / height] * 2)
        corners = found.double().numpy() * scale
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), scores.double().numpy()


def load_network(reference: str | None = None) -> ProposalNetwork:
    """A network from a weights file of a torchvision Faster R-CNN, or by name (`NETWORKS`) with torchvision's weights.

    A file holds a state dict, as it is or under `model`, of any number of classes; which detector it is of is read from
    its tensors (the smaller mobilenet from torchvision's file name). Raises SourceError for a reference that is
    neither or weights that can't be downloaded, ModelError for a file of something else or with weights that are NaN.
    """
    reference = reference or NETWORKS[0]
    if reference in NETWORKS:
        name, weights = reference, get_model_weights(reference).DEFAULT  # type: ignore[attr-defined]
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise SourceError(
                f"the proposal network {name} can't be downloaded ({' '.join(str(error).split())[:80]}): name a file "
                f"of its weights, --set.network FILE, such as {weights.url}"
            ) from None
        source, published = name, True
    else:
        path = Path(reference)
        if not path.is_file():
            raise SourceError(
                f"no proposal network {reference!r}: name a file of weights of a torchvision Faster R-CNN, or one of "
                f"{', '.join(NETWORKS)}"
            )
        source, state = path.name, read_weights(path)
        name = detector_of(state, path)
        published = path.name == Path(get_model_weights(name).DEFAULT.url).name  # type: ignore[attr-defined]
    model = get_model(name, weights=None, weights_backbone=None)
    if published and name == "fasterrcnn_resnet50_fpn":
        without_epsilon(model)
    fill(model, state, source)
    return ProposalNetwork(model, source)


def detector_of(state: dict[str, Tensor], path: Path) -> str:
    """Which of torchvision's detectors a state dict is of; ModelError for another model's."""
    if "backbone.body.conv1.weight" in state:
        return NETWORKS[0] if "rpn.head.conv.1.0.weight" in state else NETWORKS[1]
    if "backbone.body.0.0.weight" in state:
        return NETWORKS[3] if path.name.startswith(NETWORKS[3]) else NETWORKS[2]
    raise ModelError(f"{path} holds no Faster R-CNN of torchvision: proposals come from one of {', '.join(NETWORKS)}")


def used_parts(model: Any) -> nn.ModuleDict:
    """The backbone with its pyramid, and the region proposal network."""
    return nn.ModuleDict({name: getattr(model, name) for name in PARTS})


def newer(name: str) -> str:
    """A tensor's name in today's torchvision."""
    for pattern, replacement in RENAMED:
        name = pattern.sub(replacement, name)
    return name


def fill(model: Any, state: dict[str, Tensor], source: str) -> None:
    """Load the used parts of a detector's state dict, strictly; ModelError where they don't fit or aren't finite."""
    parts = used_parts(model)
    given = {newer(name): value for name, value in state.items() if name.partition(".")[0] in PARTS}
    # Frozen normalisation, with which torchvision trains, counts no batches.
    counters = {name: value for name, value in parts.state_dict().items() if name.endswith(".num_batches_tracked")}
    fit(parts, counters | given, source)
    wrong = [name for name, value in parts.state_dict().items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise ModelError(f"{source} holds NaN or infinite weights, such as {wrong[0]}")


def without_epsilon(model: Any) -> None:
    """Normalise without an epsilon, as the weights that torchvision published for this detector were trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
