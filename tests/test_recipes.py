"""The recipes' own code: memories made from sets that were embedded once."""

import importlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import retroclip
from retroclip.methods import get_method
from retroclip.tasks import Task

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def memories():
    sys.path.insert(0, str(RECIPES))
    yield importlib.import_module("memories")
    sys.path.remove(str(RECIPES))


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_encoded, memories):
    """All sets that conditions draw from, a dozen or two photos each."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("flickr8k", "tiny_imagenet", "imagenet1k_samples", "flower_photos", "intel_scenes")):
        rows, labelled = range(24 if number < 2 else 20 if number == 3 else 9), number > 0
        labels = [Task.load("flower-photos").classes[row % 5] if number == 3 else f"thing {row}" for row in rows]
        captions = [[f"two dogs and {row} cats", f"{row} cats"] for row in rows]
        columns = {
            "key": [f"{name}/{row}" for row in rows],
            "image": [make_encoded(1000 * number + row) for row in rows],
            "label": labels if labelled else [None] * len(rows),
            "captions": [None] * len(rows) if labelled else captions,
            "split": ["val" if number == 3 and row >= 9 else "train" for row in rows],
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("condition", ["in-domain", "half-wrong", "general"])
def test_a_memory_from_embedded_sets_is_the_one_that_embeds_all(memories, data, tiny_model, tmp_path, condition):
    encoder, task = retroclip.load(str(tiny_model(0)), precision="fp32"), Task.load("flower-photos")
    sources = memories.Sources(data, encoder, tmp_path / "work")
    quick = sources.memory(task, condition)
    pairs = memories.memory_pairs(data, task, "flower_photos", condition)
    plain = retroclip.Memory.create(tmp_path / "plain", encoder, [pairs])
    columns = ["key", "image", "caption", "captions", "source"]
    assert quick.take(quick.ids(), columns).to_pylist() == plain.take(plain.ids(), columns).to_pylist()
    for of in ("image", "text"):
        torch.testing.assert_close(quick.embeddings(of=of), plain.embeddings(of=of), rtol=0, atol=2e-3)  # fp16
    assert sources.seconds["embedding"] > 0


def test_nothing_is_embedded_twice(memories, data, tiny_model, tmp_path, monkeypatch):
    encoder, task = retroclip.load(str(tiny_model(0)), precision="fp32"), Task.load("flower-photos")
    memories.Sources(data, encoder, tmp_path).memory(task, "in-domain")
    monkeypatch.setattr(encoder, "encode_images", lambda *args, **given: pytest.fail("embedded again"))
    sources = memories.Sources(data, encoder, tmp_path)
    assert len(sources.memory(task, "in-domain")) == len(sources.memory(task, "half-wrong")) == 18


def test_half_of_the_captions_are_wrong_and_half_of_the_pairs_unrelated(memories, data):
    task = Task.load("flower-photos")
    names = memories.ClassNames(task)
    for condition, named in (("in-domain", 9), ("half-wrong", 5), ("general", 0)):
        pairs = memories.memory_pairs(data, task, "flower_photos", condition)
        assert sum(bool(names.found_in(pair.captions)) for pair in pairs) == named


@pytest.fixture
def leaking(data, tmp_path):
    """The sets with two evaluated flowers among those to learn from: one as it is, another one compressed anew."""
    whole = pq.read_table(data / "flower_photos.parquet").to_pylist()
    for column, row in ((9, 0), (10, 1)):
        again = io.BytesIO()
        Image.open(io.BytesIO(whole[column]["image"])).save(again, "JPEG", quality=60)
        whole[row]["image"] = whole[column]["image"] if row == 0 else again.getvalue()
    own = shutil.copytree(data, tmp_path / "data")
    pq.write_table(pa.Table.from_pylist(whole), own / "flower_photos.parquet")
    return own


def test_few_labelled_images_are_none_of_the_evaluated_ones(memories, leaking, tiny_model, tmp_path, monkeypatch):
    ablations = importlib.import_module("ablations")
    given = []
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(
        ablations.GROUPS, "low-shot-probe", ("general", lambda context: given.append(context) or iter(()))
    )
    encoder = retroclip.load(str(tiny_model(0)), precision="fp32")
    ablations.measure(memories.Sources(leaking, encoder, tmp_path / "work"), "flower-photos", 1, ["low-shot-probe"])
    assert given[0].train.rejected == [
        "flower_photos/0: is also an evaluated image", "flower_photos/1: is nearly an evaluated image"
    ]  # fmt: skip
    assert len(given[0].train) == 7


@pytest.fixture
def measured(memories, data, tiny_model, tmp_path, monkeypatch):
    """`measure` of systems.py on flowers, with the comparisons it made in `asked` and what it stores."""
    systems = importlib.import_module("systems")
    monkeypatch.setattr(systems, "RESULTS", tmp_path / "results")
    encoder, task = retroclip.load(str(tiny_model(0)), precision="fp32"), Task.load("flower-photos")
    asked, plain = [], systems.compare
    monkeypatch.setattr(systems, "compare", lambda *args, **given: asked.append(1) or plain(*args, **given))

    def measure(methods=("zero-shot", "primed", "mean-neighbours"), *, data=data, task=task, work="work", seeds=(0,)):
        samples = systems.load_samples(task, f"{data / 'flower_photos'}.parquet#val")
        sources = memories.Sources(data, encoder, tmp_path / work)
        results = systems.measure(sources, task, samples, "in-domain", methods, seeds)
        stored = systems.load_results(tmp_path / "results" / "flower-photos-in-domain.json")
        return [r.method for r in results], [r.method for r in stored], len(asked)

    return measure


def test_systems_are_measured_again_where_memory_data_or_templates_are_others(measured, data, tmp_path):
    every = ["zero-shot", "primed", "mean-neighbours"]
    assert measured() == (every, every, 1)
    assert measured() == (every, every, 1), "what is stored was measured again"
    whole = pq.read_table(data / "flower_photos.parquet")
    task = Task.load("flower-photos")
    for number, part in enumerate((slice(0, -1), slice(1, None))):  # an evaluated image less, then a pair less
        own = shutil.copytree(data, tmp_path / f"data {number}")
        pq.write_table(pa.Table.from_pylist(whole.to_pylist()[part]), own / "flower_photos.parquet")
        assert measured(data=own, work=f"work {number}")[2] == 2 + 2 * number
        assert measured()[2] == 3 + 2 * number
    assert measured(task=task.model_copy(update={"templates": ["{}."]}))[2] == 6


def test_a_stored_comparison_gives_way_to_none_of_fewer_methods_or_seeds(measured):
    every, fewer = ["zero-shot", "primed", "real-linear"], ["zero-shot", "real-linear"]
    assert measured(every, seeds=(0, 1)) == (every, every, 1)
    assert measured(["real-linear"], seeds=(0, 1)) == (fewer, every, 1), "stored rows do"
    assert measured(every) == (every, every, 2)
    assert measured(every, seeds=(0, 1))[2] == 2, "a stored file of two seeds gave way to one"
    more = ["zero-shot", "primed", "tip-adapter", "real-linear"]
    assert measured(["tip-adapter"], seeds=(0, 1)) == (["zero-shot", "tip-adapter"], more, 3), "a method didn't join"
    assert measured(more, seeds=(0, 1)) == (more, more, 3)


def test_what_was_trained_is_measured_again_only_beside_another_control(measured, monkeypatch):
    systems, first = importlib.import_module("systems"), ["zero-shot", "primed", "real-linear"]
    asked, plain = [], systems.compare

    def values(**chosen):
        def compare(*args, methods, **given):
            asked.append(list(methods))
            results = plain(*args, methods=methods, **given)
            return [result.model_copy(update={"value": chosen.get(result.method, 0.5)}) for result in results]

        monkeypatch.setattr(systems, "compare", compare)

    assert measured(first)[0] == first
    values(**{"tip-x": 0.4})
    assert measured([*first, "tip-x"])[0] == [*first, "tip-x"]
    values(**{"tip-adapter": 0.9})
    assert measured([*first, "tip-adapter"])[0] == [*first, "tip-adapter"]
    untrained = ["zero-shot", "primed", "tip-adapter", "tip-x"]
    assert asked == [["zero-shot", "primed", "tip-x"], untrained, [*untrained, "real-linear"]]


def test_a_row_that_joins_is_compared_with_what_is_stored_and_stored_rows_with_what_joins(measured, monkeypatch):
    systems, plain = importlib.import_module("systems"), importlib.import_module("systems").compare

    def compare(*args, methods, **given):
        marked = {"primed": 0.5, "tip-adapter": 0.9}
        monkeypatch.setattr("retroclip.evaluation.comparison.summarise", lambda *own, method, **options: summarise(
            *own, method=method, **options).model_copy(update={"value": marked.get(method, 0.1)}))  # fmt: skip
        return plain(*args, methods=methods, **given)

    summarise = importlib.import_module("retroclip.evaluation.comparison").summarise
    monkeypatch.setattr(systems, "compare", compare)

    def controls():
        stored = systems.load_results(systems.RESULTS / "flower-photos-in-domain.json")
        return {result.method: result.control for result in stored if get_method(result.method).trained}

    measured(["zero-shot", "primed"])
    measured(["real-linear"])
    assert controls() == {"real-linear": "primed"}, "a row joined without the control that is stored"
    measured(["tip-adapter"])
    assert controls() == {"real-linear": "tip-adapter"}, "a stored row kept a control that isn't the best any more"


def test_few_shots_of_icar_are_none_of_the_evaluated_images(memories, leaking, tiny_model, tmp_path, monkeypatch):
    icar, task = importlib.import_module("icar_features"), Task.load("flower-photos")
    monkeypatch.setattr(icar, "conv_features", lambda encoder, images: torch.ones(len(images), 2))
    encoder, source = retroclip.load(str(tiny_model(0)), precision="fp32"), leaking / "flower_photos.parquet"
    assert len(icar.Features(encoder, task, source, "train", tmp_path, 1).x) == 5
    shots = icar.Features(encoder, task, source, "train", tmp_path, 2, ("val", 2))
    assert shots.labels == [task.classes[row % 5] for row in range(2, 9)]
    assert len(icar.Features(encoder, task, source, "train", tmp_path, 2).x) == 9, "a file of others was taken"


def test_a_feature_file_of_icar_is_whole_or_not_there(memories, data, tmp_path, monkeypatch):
    icar, plain = importlib.import_module("icar_features"), torch.save
    monkeypatch.setattr(icar, "conv_features", lambda encoder, images: torch.ones(len(images), 2))

    def features():
        return icar.Features(None, Task.load("flower-photos"), data / "flower_photos.parquet", "train", tmp_path, 2)

    def killed(content, file):
        Path(file).write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        features()
    monkeypatch.setattr(torch, "save", plain)
    assert len(features().labels) == len(features().x) == 9


def test_a_variant_of_other_options_is_another_run(memories, tmp_path, monkeypatch):
    ablations, variants = importlib.import_module("ablations"), importlib.import_module("variants")
    monkeypatch.setattr(ablations, "circumstances", lambda *given: {})
    monkeypatch.setattr(ablations, "answer", lambda model, *given, **more: SimpleNamespace(outcome=Stored(model)))
    monkeypatch.setattr(ablations, "Outcome", Stored)

    def run(k: int) -> str:
        context = SimpleNamespace(task=None, encoder=None)
        variant = variants.Variant("fusion", "RECO", variants.Build(lambda seed: f"k = {k}", {"k": k}))
        return ablations.Runs(tmp_path, context, None).of(variant, 0).text

    assert (run(1), run(10), run(1)) == ("k = 1", "k = 10", "k = 1")
    assert len(list(tmp_path.rglob("*.npz"))) == 2


class Stored:
    """An outcome that is its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, file: Path) -> None:
        Path(file).write_text(self.text)

    @classmethod
    def load(cls, file: Path) -> "Stored":
        return cls(Path(file).read_text())


def test_the_options_of_fusions_and_retrieval_are_known(memories):
    variants = importlib.import_module("variants")
    context = SimpleNamespace(encoder=None, task=None)
    options = {one.name: one.build.options for one in variants.fusions(context)}
    assert options["RECO, k = 30"]["k"] == 30 and options["RA-CLIP, 3 blocks"]["blocks"] == 3
    starts = [options[f"RECO, {start} start"].get("init", "identity") for start in ("identity", "plain")]
    assert starts == ["identity", "plain"]
    context.known_memory = None
    found = {one.name: one.build.options for one in variants.retrievals(context)}
    assert found["both, k = 10"] == {"k": 10} and found["t2i"] == {"search": ("t2i",)}


def test_a_control_without_retrieval_is_the_same_module_trained_alike(memories):
    """Of another start or depth it would be another layer, with other parameters."""
    orderings, variants = importlib.import_module("orderings"), importlib.import_module("variants")
    options = {one.name: one.build.options for one in variants.fusions(SimpleNamespace(encoder=None, task=None))}
    pairs = [(one.better, one.worse) for one in orderings.ORDERINGS if one.worse.endswith(orderings.WITHOUT)]
    assert len(pairs) == 3 and all(worse == f"{better}{orderings.WITHOUT}" for better, worse in pairs)
    for better, worse in pairs:
        assert options[worse] == {**options[better], "values": "query"} != options[better]


def test_stored_rows_go_with_the_variants_of_the_groups_that_are_measured(memories):
    ablations, orderings = importlib.import_module("ablations"), importlib.import_module("orderings")
    asked = next((one.group, one.better, one.worse) for one in orderings.ORDERINGS if one.group == "fusion")
    rows = dict.fromkeys([("fusion", "mean"), ("fusion", "a former name"), ("loss", "another group's")])
    found = dict.fromkeys([asked, ("fusion", "mean", "a former name"), ("loss", "a", "b")])
    kept = ablations.still_there(rows, found, {("fusion", "mean"), ("fusion", "a new one")})
    assert [list(part) for part in kept] == [
        [("fusion", "mean"), ("loss", "another group's")],
        [asked, ("loss", "a", "b")],
    ]


@pytest.mark.slow
def test_every_ablation_runs_and_its_orderings_are_stored(memories, data, tiny_model, tmp_path, monkeypatch):
    ablations, orderings = importlib.import_module("ablations"), importlib.import_module("orderings")
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "results")
    encoder = retroclip.load(str(tiny_model(0)), precision="fp32")

    def measure() -> dict:
        sources = memories.Sources(data, encoder, tmp_path / "work")
        ablations.measure(sources, "flower-photos", 2, list(ablations.GROUPS))
        return json.loads((tmp_path / "results" / "flower-photos.json").read_text())

    first = measure()
    stored = [(one["group"], one["better"], one["worse"]) for one in first["orderings"]]
    asked = [(one.group, one.better, one.worse) for one in orderings.ORDERINGS if one.worse != orderings.ZERO_SHOT]
    assert sorted(stored) == sorted(asked)
    assert all(
        0 <= row["value"] <= 1 and row["interval"][0] <= row["gain"] <= row["interval"][1] for row in first["rows"]
    )
    assert {row["memory"] for row in first["rows"] if row["group"].startswith("low-shot")} == {"general"}
    value = {(row["group"], row["variant"]): row["value"] for row in first["rows"]}
    for order in first["orderings"]:
        expected = 100 * (value[order["group"], order["better"]] - value[order["group"], order["worse"]])
        assert order["difference"] == pytest.approx(expected, abs=1e-6)

    answered = []
    plain = ablations.answer
    monkeypatch.setattr(ablations, "answer", lambda *args, **given: answered.append(1) or plain(*args, **given))
    assert measure() == first
    assert len(answered) == 1, "what is on the disk was measured again"  # zero-shot alone
