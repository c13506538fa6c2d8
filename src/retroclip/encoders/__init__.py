"""Any CLIP-like model as an Encoder: references, loading, precision, gated towers, and the builtin's own tower."""

from retroclip.encoders import hybrid as hybrid  # registers the builtin model's image tower with timm
from retroclip.encoders.averaging import average
from retroclip.encoders.blocks import image_blocks, image_prefix, image_suffix, text_blocks
from retroclip.encoders.encoder import Encoder
from retroclip.encoders.formal import list_architectures
from retroclip.encoders.gates import GatedBlock, add_gates, gate_parameters, gated_blocks
from retroclip.encoders.loading import load, register_loader
from retroclip.encoders.precision import FIDELITY_BOUND, fidelity
from retroclip.encoders.references import list_models

__all__ = [
    "FIDELITY_BOUND",
    "Encoder",
    "GatedBlock",
    "add_gates",
    "average",
    "fidelity",
    "gate_parameters",
    "gated_blocks",
    "image_blocks",
    "image_prefix",
    "image_suffix",
    "list_architectures",
    "list_models",
    "load",
    "register_loader",
    "text_blocks",
]
