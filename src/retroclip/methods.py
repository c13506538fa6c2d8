"""The registry of methods: from an encoder, a memory and a task to an `Encoder` or a `Classifier` again.

A method is a function of a `MethodContext`, thin over the rooms that do the work. To add one, write it here (or in your
own package) under `@register_method("name")`; `compare` and the command line then know it. The order of registration is
the order of the rows in a comparison.
"""

import fnmatch
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from retroclip.errors import RetroclipError

if TYPE_CHECKING:
    from retroclip.classifiers import Classifier
    from retroclip.encoders import Encoder
    from retroclip.evaluation.samples import Samples
    from retroclip.evaluation.shots import Shots
    from retroclip.memory import Memory
    from retroclip.retrieval import Retrieved
    from retroclip.tasks import Task

RETRIEVAL: dict[str, Any] = {"search": ("t2t", "t2i"), "k": 50}
"""How `MethodContext.retrieved` is retrieved unless `options["retrieve"]` says otherwise (REACT's two modes)."""


@dataclass
class MethodContext:
    """What a method may use.

    `memory` is already without the pairs listed in `excluded_ids` (near-duplicates of evaluation images: cosine over
    `near_threshold`). `train` are labelled images, none of them evaluated; a method gets `shots` a class of them (None:
    all), drawn by the seed. `options` maps a method's name to keyword arguments of the function beneath it, and
    `retrieve` to those of `retrieval.retrieve`.
    """

    encoder: "Encoder"
    memory: "Memory | None"
    task: "Task"
    seed: int = 0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    excluded_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    near_threshold: float | None = None
    train: "Samples | None" = None
    shots: int | None = None
    borrowed_seconds: float = 0.0
    _shared: dict[Any, tuple[Any, float]] = field(default_factory=dict, repr=False)
    _used: set[Any] = field(default_factory=set, repr=False)

    def share(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make()` gives, made once for all runs of a comparison.

        A run that finds it made is charged its cost all the same, in `borrowed_seconds`, once.
        """
        if key in self._shared:
            product, seconds = self._shared[key]
            if key not in self._used:
                self.borrowed_seconds += seconds
        else:
            start, borrowed = time.perf_counter(), self.borrowed_seconds
            product = make()
            seconds = time.perf_counter() - start + self.borrowed_seconds - borrowed
            self._shared[key] = product, seconds
        self._used.add(key)
        return product

    @property
    def retrieved(self) -> "Retrieved":
        """The pairs that `RETRIEVAL` finds for the task, retrieved at first use and shared by all methods."""
        from retroclip.retrieval import retrieve

        settings = RETRIEVAL | self.options.get("retrieve", {})
        memory = self.known_memory
        return self.share("retrieved", lambda: retrieve(memory, self.task, encoder=self.encoder, **settings))

    @property
    def known_memory(self) -> "Memory":
        """The memory, for methods that are only called with one; RetroclipError otherwise."""
        if self.memory is None:
            raise RetroclipError("there is no memory to work with: name one with --memory")
        return self.memory

    @property
    def labelled(self) -> "Shots":
        """The labelled images that this run may learn from; RetroclipError where there are none."""
        from retroclip.evaluation.shots import take_shots

        train = self.train
        if train is None:
            raise RetroclipError("there are no labelled images to learn from: name them with --train")
        return self.share(("shots", self.seed), lambda: take_shots(train, self.shots, seed=self.seed))

    def for_run(self, seed: int) -> "MethodContext":
        """The same context for one run of one method: another seed, the same shared products."""
        return replace(self, seed=seed, borrowed_seconds=0.0, _used=set())

    def options_for(self, method: str) -> dict[str, Any]:
        """The keyword arguments given for a method."""
        return dict(self.options.get(method, {}))


Build = Callable[[MethodContext], "Encoder | Classifier"]


@dataclass(frozen=True)
class Method:
    """A registered method. A `trained` one depends on the seed, one that `needs_train` learns from labelled images.

    `summary` is the first line of its docstring.
    """

    name: str
    build: Build
    trained: bool
    needs_memory: bool
    default: bool
    needs_train: bool = False

    @property
    def summary(self) -> str:
        return (self.build.__doc__ or "").strip().split("\n")[0]

    def __call__(self, context: MethodContext) -> "Encoder | Classifier":
        """Build the model; RetroclipError where the method needs a memory or labelled images and there are none."""
        if self.needs_train and context.train is None:
            raise RetroclipError(f"method {self.name!r} learns from labelled images: name them with --train")
        if self.needs_memory and context.memory is None:
            raise RetroclipError(f"method {self.name!r} needs a memory: name one with --memory")
        return self.build(context)


_REGISTRY: dict[str, Method] = {}


def register_method(
    name: str, *, trained: bool = False, needs_memory: bool = True, default: bool = True, needs_train: bool = False
) -> Callable[[Build], Build]:
    """Register a function under a name; with `default=False` a comparison runs it only when it is named.

    One with `needs_train` learns from labelled images (`MethodContext.labelled`).
    Raises ValueError for a name that is taken.
    """

    def register(build: Build) -> Build:
        if name in _REGISTRY:
            raise ValueError(f"a method called {name!r} is registered already")
        _REGISTRY[name] = Method(name, build, trained, needs_memory, default, needs_train)
        return build

    return register


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the methods that match a shell pattern, in the order of a comparison's rows."""
    return fnmatch.filter(_REGISTRY, pattern)


def default_methods() -> list[str]:
    """Names of the methods that a comparison runs unless told otherwise."""
    return [name for name, method in _REGISTRY.items() if method.default]


def get_method(name: str) -> Method:
    """The method of that name; RetroclipError naming those there are."""
    if name not in _REGISTRY:
        raise RetroclipError(f"no method is called {name!r}: choose from {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


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


@register_method("mean-neighbours")
def _mean_neighbours(context: MethodContext) -> "Encoder":
    """Every image mixed with the mean of its neighbours' texts; nothing is trained (NN fusion)."""
    return _fused(context, "mean", "mean-neighbours")


@register_method("tip-adapter")
def _tip_adapter(context: MethodContext) -> "Classifier":
    """A cache of the retrieved images beside the class texts; nothing is trained (Tip-Adapter)."""
    from retroclip.classifiers import tip_adapter

    return tip_adapter(context.encoder, context.task, context.retrieved, **context.options_for("tip-adapter"))


@register_method("mean-neighbours-centred")
def _mean_neighbours_centred(context: MethodContext) -> "Encoder":
    """The mean of neighbours after each modality's mean is taken out; nothing is trained (modality gap)."""
    return _fused(context, "centred-mean", "mean-neighbours-centred")


@register_method("tip-x")
def _tip_x(context: MethodContext) -> "Classifier":
    """Tip-Adapter and a cache of class distributions beside it; nothing is trained (TIP-X)."""
    from retroclip.classifiers import tip_x

    return tip_x(context.encoder, context.task, context.retrieved, **context.options_for("tip-x"))


@register_method("real-prompt")
def _real_prompt(context: MethodContext) -> "Classifier":
    """The class texts, each class called what the memory's captions call it most; nothing is trained (REAL-Prompt)."""
    from retroclip.classifiers import memory_captions, real_prompt

    captions = context.share("captions", lambda: memory_captions(context.known_memory))
    return real_prompt(context.encoder, context.task, captions)


@register_method("real-linear", trained=True)
def _real_linear(context: MethodContext) -> "Classifier":
    """A linear head on the pairs whose caption names a class, averaged with the zero-shot head (REAL-Linear)."""
    from retroclip.classifiers import real_linear

    options = {"seed": context.seed} | context.options_for("real-linear")
    return real_linear(context.encoder, context.task, context.retrieved, **options)


@register_method("reco", trained=True)
def _reco(context: MethodContext) -> "Encoder":
    """A transformer layer that attends to the neighbours, trained on the memory's own pairs (RECO)."""
    return _fused(context, "reco", "reco", seed=context.seed)


@register_method("reco-plain", trained=True, default=False)
def _reco_plain(context: MethodContext) -> "Encoder":
    """RECO with the paper's freely initialised layer, behind a gate that starts closed."""
    return _fused(context, "reco", "reco-plain", seed=context.seed, init="plain")


@register_method("ra-clip", trained=True)
def _ra_clip(context: MethodContext) -> "Encoder":
    """RA-CLIP's augmentation module over a frozen encoder, trained on the memory's own pairs."""
    return _fused(context, "ra-clip", "ra-clip", seed=context.seed)


@register_method("locked-text", trained=True)
def _locked_text(context: MethodContext) -> "Encoder":
    """The image tower tuned on the retrieved pairs, the text tower locked (REACT, with our terms)."""
    return _customized(context, "locked-text")


@register_method("gated-image", trained=True)
def _gated_image(context: MethodContext) -> "Encoder":
    """Gated blocks in a frozen image tower, tuned on the retrieved pairs (REACT, with our terms)."""
    return _customized(context, "gated-image")


@register_method("locked-text-react", trained=True, default=False)
def _locked_text_react(context: MethodContext) -> "Encoder":
    """The image tower tuned on the retrieved pairs with REACT's own loss."""
    return _customized(context, "locked-text", "react", recipe="react")


@register_method("gated-image-react", trained=True, default=False)
def _gated_image_react(context: MethodContext) -> "Encoder":
    """Gated blocks in a frozen image tower, tuned on the retrieved pairs with REACT's own loss."""
    return _customized(context, "gated-image", "react", recipe="react")


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


@register_method("linear-probe", trained=True, needs_memory=False, default=False, needs_train=True)
def _linear_probe(context: MethodContext) -> "Classifier":
    """CLIP's probe: logistic regression by L-BFGS on labelled images, its strength swept on folds of them."""
    return _probed(context, "linear-probe", "zero")


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


def _fused(context: MethodContext, kind: str, method: str, **options: Any) -> "Encoder":
    from retroclip.training import fuse

    options |= context.options_for(method)
    return cast("Encoder", fuse(context.encoder, context.known_memory, kind=kind, **options))


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
