"""Ablations: variants, their runs, and what is stored of them."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import retroclip


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


def test_a_fine_tuning_gets_a_folder_to_go_on_from_until_it_is_measured(memories, tmp_path, monkeypatch):
    ablations, variants = importlib.import_module("ablations"), importlib.import_module("variants")
    monkeypatch.setattr(ablations, "circumstances", lambda *given: {})
    monkeypatch.setattr(ablations, "answer", lambda model, *given, **more: SimpleNamespace(outcome=Stored(model)))
    monkeypatch.setattr(ablations, "Outcome", Stored)
    train = SimpleNamespace(labels=np.array([0, 1]), images=[b"", b""])
    task = SimpleNamespace(name="flower-photos", classes=["a", "b"])
    context = SimpleNamespace(task=task, encoder=None, train=train)
    given = []

    def fine_tune(*args, checkpoint, **options):
        checkpoint.mkdir()
        given.append(checkpoint)
        return "tuned"

    monkeypatch.setattr(variants, "fine_tune", fine_tune)
    runs = ablations.Runs(tmp_path, context, None)
    tuned = [one for one in variants.low_shot(context, "fine-tuning") if one.name.startswith("base, text")]
    assert [runs.of(one, seed).text for one in tuned[:2] for seed in range(2)] == ["tuned"] * 4
    assert len(set(given)) == 4 and not any(state.exists() for state in given)


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
    groups = [one.group for one in variants.retrievals(context)]
    assert {groups.count(group) for group in groups} == {len(found)}, "a user of retrieval without some settings"


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
