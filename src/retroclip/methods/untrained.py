"""Methods that train nothing."""

from typing import TYPE_CHECKING

from retroclip.methods.context import MethodContext
from retroclip.methods.fused import fused
from retroclip.methods.registry import register_method

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder


@register_method("zero-shot", needs_memory=False)
def _zero_shot(context: MethodContext) -> "Classifier":
    """The class texts alone, as CLIP does it."""
    from retroclip.classifiers import zero_shot

    return zero_shot(context.encoder, context.task)


@register_method("primed")
def _primed(context: MethodContext) -> "Classifier":
    """Class texts mixed with the centroid of the retrieved pairs; nothing is trained (Neural Priming)."""
    from retroclip.classifiers import primed

    return primed(context.encoder, context.task, context.retrieved, **context.options_for("primed"))


@register_method("mean-neighbours", dense=False)
def _mean_neighbours(context: MethodContext) -> "Encoder":
    """Every image mixed with the mean of its neighbours' texts; nothing is trained (NN fusion)."""
    return fused(context, "mean", "mean-neighbours")


@register_method("tip-adapter")
def _tip_adapter(context: MethodContext) -> "Classifier":
    """A cache of the retrieved images beside the class texts; nothing is trained (Tip-Adapter)."""
    from retroclip.classifiers import tip_adapter

    return tip_adapter(context.encoder, context.task, context.retrieved, **context.options_for("tip-adapter"))


@register_method("mean-neighbours-centred", dense=False)
def _mean_neighbours_centred(context: MethodContext) -> "Encoder":
    """The mean of neighbours after each modality's mean is taken out; nothing is trained (modality gap)."""
    return fused(context, "centred-mean", "mean-neighbours-centred")


@register_method("tip-x")
def _tip_x(context: MethodContext) -> "Classifier":
    """Tip-Adapter and a cache of class distributions beside it; nothing is trained (TIP-X)."""
    from retroclip.classifiers import tip_x

    return tip_x(context.encoder, context.task, context.retrieved, **context.options_for("tip-x"))


@register_method("real-prompt")
def _real_prompt(context: MethodContext) -> "Classifier":
    """The class texts, each class called what the memory's captions call it most; nothing is trained (REAL-Prompt)."""
    from retroclip.classifiers import real_prompt

    return real_prompt(context.encoder, context.task, context.captions)
