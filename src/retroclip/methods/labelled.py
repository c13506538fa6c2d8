"""Methods that learn from labelled images of the task."""

from typing import TYPE_CHECKING, Any

from torch.nn.functional import pad

from retroclip.methods.context import MethodContext
from retroclip.methods.registry import register_method

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier


@register_method("linear-probe", trained=True, needs_memory=False, default=False, needs_train=True)
def _linear_probe(context: MethodContext) -> "Classifier":
    """CLIP's probe: logistic regression by L-BFGS on labelled images, its strength swept on folds of them."""
    return _probed(context, "linear-probe", "zero")


@register_method(
    "linear-probe-features", trained=True, needs_memory=False, default=False, needs_train=True, dense=False
)
def _linear_probe_features(context: MethodContext) -> "Classifier":
    """The same probe on what the image tower knows before its projection, as CLIP's paper reads it."""
    from retroclip.classifiers import linear_probe
    from retroclip.encoders.features import FeatureEncoder

    shots, options = context.labelled, {"seed": context.seed} | context.options_for("linear-probe-features")
    encoder: Any = context.share("features", lambda: FeatureEncoder(context.encoder))
    rows = context.share(("features of shots", context.seed), lambda: encoder.encode_images(shots.images))
    probe = linear_probe(encoder, context.task, rows[:, encoder.dim :], shots.labels, **options)
    probe.weights = pad(probe.weights, (encoder.dim, 0))  # the embedding before the features counts nothing
    return probe


@register_method("linear-probe-text", trained=True, needs_memory=False, default=False, needs_train=True)
def _linear_probe_text(context: MethodContext) -> "Classifier":
    """The same probe drawn towards the class texts instead of zero."""
    return _probed(context, "linear-probe-text", "text")


@register_method("linear-probe-sgd", trained=True, needs_memory=False, default=False, needs_train=True)
def _linear_probe_sgd(context: MethodContext) -> "Classifier":
    """RA-CLIP's probe: SGD over augmented views of labelled images, from random weights."""
    return _augmented_probe(context, "linear-probe-sgd", "random")


@register_method("linear-probe-sgd-text", trained=True, needs_memory=False, default=False, needs_train=True)
def _linear_probe_sgd_text(context: MethodContext) -> "Classifier":
    """The same probe from the class texts (iCAR, ELEVATER)."""
    return _augmented_probe(context, "linear-probe-sgd-text", "text")


@register_method("fine-tune", trained=True, needs_memory=False, default=False, needs_train=True)
def _fine_tune(context: MethodContext) -> "Classifier":
    """Gated blocks and class weights tuned on labelled images, from the class texts."""
    from retroclip.training import fine_tune

    shots, options = context.labelled, {"seed": context.seed} | context.options_for("fine-tune")
    return fine_tune(context.encoder, context.task, shots.images, shots.labels, **options)


def _probed(context: MethodContext, method: str, prior: str) -> "Classifier":
    from retroclip.classifiers import linear_probe

    shots = context.labelled
    options: dict[str, Any] = {"seed": context.seed, "prior": prior} | context.options_for(method)
    features = context.share(("embedded", context.seed), lambda: shots.embed(context.encoder))
    return linear_probe(context.encoder, context.task, features, shots.labels, **options)


def _augmented_probe(context: MethodContext, method: str, init: str) -> "Classifier":
    from retroclip.training import augmented_probe

    shots = context.labelled
    options: dict[str, Any] = {"seed": context.seed, "init": init} | context.options_for(method)
    return augmented_probe(context.encoder, context.task, shots.images, shots.labels, **options)
