"""Methods that are trained on the memory: heads, fusions and customizations."""

from typing import TYPE_CHECKING, Any, cast

from retroclip.errors import MemoryStoreError
from retroclip.methods.context import MethodContext
from retroclip.methods.fused import fused
from retroclip.methods.registry import register_method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder

IMAGES = 1024  # stored images held at a time: of a thousand classes they would be 10 GB


@register_method("real-linear", trained=True)
def _real_linear(context: MethodContext) -> "Classifier":
    """A linear head on the memory's pairs that name a class, averaged with the zero-shot head (REAL-Linear)."""
    from retroclip.classifiers import real_linear

    ids, labels = _matched(context, **{"seed": context.seed} | context.options_for("real-linear"))
    return real_linear(context.encoder, context.task, context.known_memory.embeddings(ids), labels)


@register_method("stacked-linear", trained=True)
def _stacked_linear(context: MethodContext) -> "Classifier":
    """A linear head on the memory's pairs that name a class, weighed against the primed head on held-out pairs."""
    from retroclip.classifiers import stacked_linear

    options = context.options_for("stacked-linear")
    ids, labels = _matched(context, options.pop("per_class", 500), seed=context.seed)
    images = context.known_memory.embeddings(ids)
    return stacked_linear(context.encoder, context.task, images, labels, **{"seed": context.seed} | options)


@register_method("stacked-linear-features", trained=True, dense=False)
def _stacked_linear_features(context: MethodContext) -> "Classifier":
    """The same on what the image tower knows before its projection, beside zero-shot; embeds stored images again."""
    from retroclip.classifiers import stacked_linear
    from retroclip.classifiers.linear import check_matched
    from retroclip.encoders.features import FeatureEncoder

    options = {"alpha": 1.0} | context.options_for("stacked-linear-features")  # not primed: docs/decisions.md
    per_class = options.pop("per_class", 100)
    # One draw for all seeds, which differ in the folds: embedding is the dear part.
    ids, labels = _matched(context, per_class, seed=0)
    check_matched(labels, context.task, "stacked-linear-features")
    encoder: Any = context.share("features", lambda: FeatureEncoder(context.encoder))
    kept, images = context.share(("matched", per_class), lambda: _embedded_again(context, encoder, ids))
    return stacked_linear(encoder, context.task, images, labels[kept], **{"seed": context.seed} | options)


@register_method("reco", trained=True, dense=False)
def _reco(context: MethodContext) -> "Encoder":
    """A transformer layer that attends to the neighbours, trained on the memory's own pairs (RECO)."""
    return fused(context, "reco", "reco", seed=context.seed)


@register_method("reco-plain", trained=True, default=False, dense=False)
def _reco_plain(context: MethodContext) -> "Encoder":
    """RECO with the paper's freely initialised layer, behind a gate that starts closed."""
    return fused(context, "reco", "reco-plain", seed=context.seed, init="plain")


@register_method("ra-clip", trained=True, dense=False)
def _ra_clip(context: MethodContext) -> "Encoder":
    """RA-CLIP's augmentation module over a frozen encoder, trained on the memory's own pairs."""
    return fused(context, "ra-clip", "ra-clip", seed=context.seed)


@register_method("locked-text", trained=True)
def _locked_text(context: MethodContext) -> "Encoder":
    """The image tower tuned on the retrieved pairs, the text tower locked (REACT, with our terms)."""
    return _customized(context, "locked-text")


@register_method("gated-image", trained=True)
def _gated_image(context: MethodContext) -> "Encoder":
    """Gated blocks in a frozen image tower, tuned on the retrieved pairs (REACT, with our terms)."""
    return _customized(context, "gated-image")


@register_method("gated-image-linear", trained=True, default=False)
def _gated_image_linear(context: MethodContext) -> "Classifier":
    """REAL-Linear on the tuned model: a head over the retrieved pairs as its gated tower sees them."""
    from retroclip.classifiers import real_linear
    from retroclip.retrieval import matched_pairs

    tuned, options = _customized(context, "gated-image"), context.options_for("gated-image-linear")
    found = context.share(("seen by gated-image", context.seed), lambda: context.retrieved.seen_by(tuned))
    rows, labels = matched_pairs(found.captions, context.task, **{"seed": context.seed} | options)
    classifier = real_linear(tuned, context.task, found.image_embeddings[rows], labels)
    classifier.trained_parameters = (classifier.trained_parameters or 0) + (tuned.trained_parameters or 0)
    return classifier


@register_method("locked-text-react", trained=True, default=False)
def _locked_text_react(context: MethodContext) -> "Encoder":
    """The image tower tuned on the retrieved pairs with REACT's own loss."""
    return _customized(context, "locked-text", "react", recipe="react")


@register_method("gated-image-react", trained=True, default=False)
def _gated_image_react(context: MethodContext) -> "Encoder":
    """Gated blocks in a frozen image tower, tuned on the retrieved pairs with REACT's own loss."""
    return _customized(context, "gated-image", "react", recipe="react")


@register_method("locked-text-react-published", trained=True, default=False)
def _locked_text_react_published(context: MethodContext) -> "Encoder":
    """The image tower tuned as REACT's authors publish it altogether: rates, epochs, views; for millions of pairs."""
    return _customized(context, "locked-text", "react-published", recipe="react-published")


@register_method("gated-image-react-published", trained=True, default=False)
def _gated_image_react_published(context: MethodContext) -> "Encoder":
    """Gated blocks tuned as REACT's authors publish it altogether: rates, epochs, views; for millions of pairs."""
    return _customized(context, "gated-image", "react-published", recipe="react-published")


@register_method("gated-image-siglip", trained=True, default=False)
def _gated_image_siglip(context: MethodContext) -> "Encoder":
    """Gated blocks in a frozen image tower, tuned with SigLIP's pairwise loss instead of the contrastive one."""
    return _customized(context, "gated-image", "siglip", loss="sigmoid")


@register_method("self-training", trained=True, default=False)
def _self_training(context: MethodContext) -> "Encoder":
    """Gated blocks tuned on the retrieved images with the untuned model's answers as labels (REACT's baseline)."""
    from retroclip.training import customize
    from retroclip.training.pseudo import pseudo_labelled

    options: dict[str, Any] = {"seed": context.seed, "recipe": "react"} | context.options_for("self-training")
    found = context.share("pseudo-labelled", lambda: pseudo_labelled(context.encoder, context.retrieved))
    return cast("Encoder", customize(context.encoder, found, **options))


@register_method("locked-text-averaged", trained=True, default=False)
def _locked_text_averaged(context: MethodContext) -> "Encoder":
    """Halfway in weight space between the model and its locked-text tuning, to forget less (WiSE-FT)."""
    return _averaged(context, "locked-text")


@register_method("gated-image-averaged", trained=True, default=False)
def _gated_image_averaged(context: MethodContext) -> "Encoder":
    """The gates of the gated-image tuning half open, to forget less (WiSE-FT)."""
    return _averaged(context, "gated-image")


def _matched(context: MethodContext, per_class: int = 500, *, seed: int) -> "tuple[NDArray[np.int64], Tensor]":
    """Ids and classes of the memory's pairs that name one class of the task, at most so many a class."""
    from retroclip.retrieval import matched_pairs

    rows, labels = matched_pairs(context.captions, context.task, per_class=per_class, seed=seed)
    return context.known_memory.ids()[rows.numpy()], labels


def _embedded_again(context: MethodContext, encoder: "Encoder", ids: "NDArray[np.int64]") -> "tuple[list[int], Tensor]":
    """Positions in `ids` of the pairs with a stored image, and what `encoder` makes of these, `IMAGES` at a time."""
    import torch

    kept: list[int] = []
    rows: list[Tensor] = []
    for start in range(0, len(ids), IMAGES):
        stored = context.known_memory.take(ids[start : start + IMAGES], ["image"])["image"].to_pylist()
        if images := [image for image in stored if image is not None]:
            kept += [start + place for place, image in enumerate(stored) if image is not None]
            rows.append(encoder.encode_images(images))
    if not kept:
        raise MemoryStoreError("the memory kept no images to embed again: make it with --images store or thumbnail")
    return kept, torch.cat(rows)


def _customized(context: MethodContext, tuning: str, variant: str = "", **fixed: Any) -> "Encoder":
    from retroclip.training import customize

    name = f"{tuning}-{variant}" if variant else tuning
    options = {"seed": context.seed} | context.options_for(name) | fixed

    def tune() -> "Encoder":
        return customize(context.encoder, context.retrieved, tuning=tuning, **options)

    return cast("Encoder", context.share((name, context.seed), tune))


def _averaged(context: MethodContext, tuning: str) -> "Encoder":
    from retroclip.encoders import average

    options = {"weight": 0.5} | context.options_for(f"{tuning}-averaged")
    tuned = _customized(context, tuning)
    model = average(context.encoder, tuned, **options)
    model.history, model.trained_parameters = tuned.history, tuned.trained_parameters
    return model
