"""The registry, and that every method passes on what its room needs."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from retroclip import methods
from retroclip.errors import MemoryStoreError, RetroclipError
from retroclip.methods import MethodContext, get_method, list_methods, register_method
from retroclip.tasks import Task


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(methods.registry, "_REGISTRY", dict(methods.registry._REGISTRY))


@pytest.fixture
def context():
    return MethodContext(encoder="encoder", memory="memory", task="task", seed=5, options={"reco": {"k": 3}})


def test_order_of_a_comparison():
    assert methods.default_methods() == [
        "zero-shot", "primed", "mean-neighbours", "tip-adapter", "mean-neighbours-centred", "tip-x", "real-prompt",
        "real-linear", "stacked-linear", "stacked-linear-features", "reco", "ra-clip", "locked-text", "gated-image",
    ]  # fmt: skip
    assert list_methods("*-clip") == ["ra-clip"]
    assert all(get_method(name).summary for name in list_methods())
    probes = [f"linear-probe{kind}" for kind in ("", "-features", "-text", "-sgd", "-sgd-text")]
    learning = [*probes, "fine-tune"]
    assert [name for name in list_methods() if get_method(name).needs_train] == learning
    assert [name for name in list_methods() if not get_method(name).needs_memory] == ["zero-shot", *learning]


def test_register(registry):
    @register_method("mine", trained=True)
    def mine(context):
        """Mine.

        More.
        """
        return "model"

    assert list_methods()[-1] == "mine"
    method = get_method("mine")
    assert (method.summary, method.trained) == ("Mine.", True)
    assert method(MethodContext("e", "m", "t")) == "model"
    with pytest.raises(ValueError, match="registered already"):
        register_method("mine")(mine)


def test_unknown_method_and_missing_memory():
    with pytest.raises(RetroclipError, match="no method is called 'nope': choose from zero-shot, primed"):
        get_method("nope")
    with pytest.raises(RetroclipError, match="'primed' needs a memory"):
        get_method("primed")(MethodContext("encoder", None, "task"))


def test_retrieval_is_lazy_done_once_and_shared(monkeypatch, context):
    calls = []
    monkeypatch.setattr("retroclip.retrieval.retrieve", lambda *args, **given: calls.append((args, given)) or "found")
    context.options["retrieve"] = {"k": 7}
    first, second = context.for_run(0), context.for_run(1)
    assert first.retrieved == first.retrieved == second.retrieved == "found"
    assert calls == [(("memory", "task"), {"encoder": "encoder", "search": ("t2t", "t2i"), "k": 7})]


def test_what_is_shared_is_charged_to_each_run_once(monkeypatch, context):
    now = iter([0.0, 1.0, 4.0, 6.0])  # the inner product takes 3 seconds, the outer one 6 with it
    monkeypatch.setattr("retroclip.methods.context.time.perf_counter", lambda: next(now))
    first, second, third = (context.for_run(seed) for seed in range(3))
    outer = first.share("outer", lambda: first.share("inner", lambda: "product") + "!")
    assert (outer, first.borrowed_seconds) == ("product!", 0.0)
    assert [second.share("inner", pytest.fail) for _ in range(2)] == ["product"] * 2
    assert second.borrowed_seconds == 3.0
    assert third.share("outer", pytest.fail) == "product!"
    assert (third.borrowed_seconds, context.borrowed_seconds) == (6.0, 0.0)


def test_an_averaged_method_takes_the_tuned_model_of_its_seed(monkeypatch, context):
    calls = []

    class Model:
        history, trained_parameters = "curve", 7

    monkeypatch.setattr("retroclip.retrieval.retrieve", lambda *args, **given: "found")
    monkeypatch.setattr("retroclip.training.customize", lambda *args, **given: calls.append(given) or Model())
    monkeypatch.setattr("retroclip.encoders.average", lambda a, b, weight: (calls.append((a, weight)), Model())[1])
    get_method("gated-image")(context.for_run(3))
    averaged = get_method("gated-image-averaged")(context.for_run(3))
    assert calls == [{"tuning": "gated-image", "seed": 3}, ("encoder", 0.5)]
    assert (averaged.history, averaged.trained_parameters) == ("curve", 7)


def test_a_head_over_a_tuned_model_learns_from_what_that_model_sees(monkeypatch, context):
    calls = []

    class Model:
        trained_parameters = 7

    class Found:
        captions, image_embeddings = "captions", torch.eye(3)

        def seen_by(self, encoder):
            calls.append(encoder)
            return self

    tuned, head, labels = Model(), Model(), torch.tensor([1, 0])
    monkeypatch.setattr("retroclip.retrieval.retrieve", lambda *args, **given: Found())
    monkeypatch.setattr("retroclip.training.customize", lambda *args, **given: tuned)
    monkeypatch.setattr("retroclip.classifiers.real_linear", lambda *args: calls.append(args) or head)
    matched = lambda *args, **given: calls.append((args, given)) or (torch.tensor([2, 0]), labels)  # noqa: E731
    monkeypatch.setattr("retroclip.retrieval.matched_pairs", matched)
    assert get_method("gated-image-linear")(context) is head
    seen, asked, (encoder, task, images, given) = calls
    assert seen is encoder is tuned and asked == (("captions", "task"), {"seed": 5})
    assert task == "task" and given is labels and images.argmax(1).tolist() == [2, 0]
    assert head.trained_parameters == 14


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("mean-neighbours", "training.fuse", (("encoder", "memory"), {"kind": "mean"})),
        ("reco", "training.fuse", (("encoder", "memory"), {"kind": "reco", "seed": 5, "k": 3})),
        ("reco-plain", "training.fuse", (("encoder", "memory"), {"kind": "reco", "seed": 5, "init": "plain"})),
        ("mean-neighbours-centred", "training.fuse", (("encoder", "memory"), {"kind": "centred-mean"})),
        ("tip-x", "classifiers.tip_x", (("encoder", "task", "found"), {})),
        (
            "gated-image-react",
            "training.customize",
            (("encoder", "found"), {"tuning": "gated-image", "seed": 5, "recipe": "react"}),
        ),
        (
            "locked-text-react-published",
            "training.customize",
            (("encoder", "found"), {"tuning": "locked-text", "seed": 5, "recipe": "react-published"}),
        ),
        (
            "gated-image-siglip",
            "training.customize",
            (("encoder", "found"), {"tuning": "gated-image", "seed": 5, "loss": "sigmoid"}),
        ),
        ("ra-clip", "training.fuse", (("encoder", "memory"), {"kind": "ra-clip", "seed": 5})),
        ("gated-image", "training.customize", (("encoder", "found"), {"tuning": "gated-image", "seed": 5})),
        ("locked-text", "training.customize", (("encoder", "found"), {"tuning": "locked-text", "seed": 5})),
        ("primed", "classifiers.primed", (("encoder", "task", "found"), {})),
        ("tip-adapter", "classifiers.tip_adapter", (("encoder", "task", "found"), {})),
        ("zero-shot", "classifiers.zero_shot", (("encoder", "task"), {})),
    ],
)
def test_each_method_is_thin_over_its_room(monkeypatch, context, name, target, expected):
    monkeypatch.setattr("retroclip.retrieval.retrieve", lambda *args, **given: "found")
    module, function = target.split(".")
    called = []
    fake = lambda *args, **given: called.append((args, given)) or "model"  # noqa: E731
    monkeypatch.setattr(f"retroclip.{module}.{function}", fake)
    assert get_method(name)(context) == "model"
    assert called == [expected]


def test_methods_that_read_more_than_what_was_found(monkeypatch, context):
    monkeypatch.setattr("retroclip.retrieval.retrieve", lambda *args, **given: "found")
    monkeypatch.setattr("retroclip.classifiers.memory_captions", lambda memory: f"captions of {memory}")
    monkeypatch.setattr("retroclip.classifiers.real_prompt", lambda *args: args)
    assert get_method("real-prompt")(context) == ("encoder", "task", "captions of memory")
    monkeypatch.setattr("retroclip.training.pseudo.pseudo_labelled", lambda *args: ("answers", *args))
    monkeypatch.setattr("retroclip.training.customize", lambda *args, **given: (args, given))
    expected = ("encoder", ("answers", "encoder", "found")), {"seed": 5, "recipe": "react"}
    assert get_method("self-training")(context) == expected


class Pairs:
    """A memory of seven pairs, one of them without a stored image."""

    captions = (("cat",), ("dog",), ("grass",), ("cat",), ("cat and dog",), ("cat",), ("cat",))

    def ids(self):
        return np.arange(10, 17)

    def take(self, ids, columns):
        stored = {"captions": list(self.captions), "image": [None, *(b"%d" % row for row in range(1, 7))]}
        return pa.table({name: [stored[name][row - 10] for row in ids] for name in columns})

    def embeddings(self, ids):
        return torch.from_numpy(np.asarray(ids))[:, None].float()


def heads(monkeypatch, name, made="head"):
    """Where the arguments of a head go that a method trains."""
    calls = []
    monkeypatch.setattr(f"retroclip.classifiers.{name}", lambda *args, **given: calls.append((args, given)) or made)
    return calls


@pytest.mark.parametrize(("method", "function", "given"), [
    ("real-linear", "real_linear", {}),
    ("stacked-linear", "stacked_linear", {"seed": 5, "sharpness": 0.1}),
])  # fmt: skip
def test_linear_heads_learn_from_all_pairs_of_the_memory_that_name_one_class(monkeypatch, method, function, given):
    calls, task = heads(monkeypatch, function), Task("pets", classes=["cat", "dog"])
    options = {"stacked-linear": {"per_class": 9, "sharpness": 0.1}}
    assert get_method(method)(MethodContext("encoder", Pairs(), task, seed=5, options=options)) == "head"
    (((encoder, own, images, labels), named),) = calls
    assert (encoder, own, named) == ("encoder", task, given)
    assert sorted(zip(images[:, 0].tolist(), labels.tolist(), strict=True)) == [
        (10, 0),
        (11, 1),
        (13, 0),
        (15, 0),
        (16, 0),
    ]


def test_a_probe_of_features_leaves_the_embedding_before_them_alone(monkeypatch, encoder_of_features):
    shots = SimpleNamespace(images=[b"1", b"2"], labels=torch.tensor([0, 1]))
    monkeypatch.setattr(MethodContext, "labelled", property(lambda self: shots))
    calls, made = [], SimpleNamespace(weights=torch.ones(2, 1))
    monkeypatch.setattr(
        "retroclip.classifiers.linear_probe", lambda *args, **given: calls.append((args, given)) or made
    )
    context = MethodContext("encoder", None, "task", seed=5, train="train")
    assert get_method("linear-probe-features")(context) is made
    assert made.weights.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    (((encoder, task, features, labels), given),) = calls
    assert (encoder.base, task, given) == ("encoder", "task", {"seed": 5})
    assert features.tolist() == [[10.0], [20.0]] and labels is shots.labels


@pytest.fixture
def encoder_of_features(monkeypatch):
    """In the place of `FeatureEncoder`: an embedding and a feature, both told by the image; gives what was embedded."""
    embedded = []

    class Wide:
        dim = 1

        def __init__(self, base):
            self.base = base

        def encode_images(self, images):
            embedded.append(images)
            return torch.tensor([[float(image), 10 * float(image)] for image in images])

    monkeypatch.setattr("retroclip.encoders.features.FeatureEncoder", Wide)
    return embedded


def test_features_are_read_from_the_stored_images_once_for_all_seeds(monkeypatch, encoder_of_features):
    calls = heads(monkeypatch, "stacked_linear")
    context = MethodContext("encoder", Pairs(), Task("pets", classes=["cat", "dog"]))
    for seed in range(4):
        assert get_method("stacked-linear-features")(context.for_run(seed)) == "head"
    for seed, ((encoder, _, images, labels), given) in enumerate(calls):
        assert encoder.base == "encoder" and given == {"alpha": 1.0, "seed": seed}
        assert sorted(zip(images[:, 0].tolist(), labels.tolist(), strict=True)) == [(1, 1), (3, 0), (5, 0), (6, 0)]
    assert len(encoder_of_features) == 1
    monkeypatch.setattr("retroclip.methods.trained.IMAGES", 1)
    get_method("stacked-linear-features")(MethodContext("encoder", Pairs(), Task("pets", classes=["cat", "dog"])))
    assert sorted(encoder_of_features[1:]) == [[b"1"], [b"3"], [b"5"], [b"6"]]
    assert calls[-1][0][2].tolist() == calls[0][0][2].tolist() and calls[-1][0][3].tolist() == calls[0][0][3].tolist()
    with pytest.raises(RetroclipError, match="names one class of task 'cows': stacked-linear-features can't be"):
        get_method("stacked-linear-features")(MethodContext("encoder", Pairs(), Task("cows", classes=["cow"])))
    bare = Pairs()
    bare.take = lambda ids, columns: (
        Pairs.take(bare, ids, columns) if columns == ["captions"] else pa.table({"image": pa.nulls(len(ids))})
    )
    with pytest.raises(MemoryStoreError, match="kept no images to embed again"):
        get_method("stacked-linear-features")(MethodContext("encoder", bare, Task("pets", classes=["cat", "dog"])))


def test_options_are_copies(context):
    context.options_for("reco")["k"] = 99
    assert context.options == {"reco": {"k": 3}}
    assert isinstance(context.options_for("primed"), dict)
