"""The fusions among the methods: one call of `training.fuse`."""

from typing import TYPE_CHECKING, Any, cast

from retroclip.methods.context import MethodContext

if TYPE_CHECKING:
    from retroclip.encoders import Encoder


def fused(context: MethodContext, kind: str, method: str, **options: Any) -> "Encoder":
    """An encoder that consults the memory through a fusion of that kind, with the options given for the method."""
    from retroclip.training import fuse

    options |= context.options_for(method)
    return cast("Encoder", fuse(context.encoder, context.known_memory, kind=kind, **options))
