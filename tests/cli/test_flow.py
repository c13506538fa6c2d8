"""From a memory to retrieval, customization, fusion, evaluation, comparison and a report."""

import json
from pathlib import Path

import pytest
import yaml

from retroclip import training
from retroclip.encoders import load
from retroclip.errors import ModelError
from retroclip.evaluation import load_results


@pytest.fixture
def labelled(tmp_path, make_encoded):
    """Class folders of pictures that aren't in the memory."""
    for number in range(12):
        folder = tmp_path / "labelled" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(make_encoded(100 + number))
    return "labelled"


def test_retrieve_customize_evaluate(run, model, memory, task, labelled):
    found = run(f"retrieve mem {task} --out found -k 8")
    assert found.status == 0
    assert "pairs for animals in found" in found.out and "names a class" not in found.err
    assert "no caption of theirs names a class" in run("retrieve mem zebra,gnu --out other -k 8").err
    assert run(f"customize found --model {model} --out custom --epochs 1").status == 0
    result = json.loads(run(f"evaluate custom {task} {labelled} --json").out)
    assert (result["task"], result["n"], result["method"], result["metric"]) == ("animals", 12, "zero-shot", "top1")
    assert 0 <= result["value"] <= 1
    assert {"dataset", "split", "model", "interval", "seconds", "per_class", "top1"} <= set(result)


def test_classes_are_named_with_their_descriptions(run, model, memory, task, labelled):
    told = {"cat": "a small feline", "dog": "a canine."}
    described = {"name": "animals", "classes": ["cat", "dog"], "descriptions": told}
    with open("described.yaml", "w") as file:
        yaml.safe_dump(described, file)
    plain = json.loads(run(f"evaluate {model} described.yaml {labelled} --json").out)
    result = json.loads(run(f"evaluate {model} described.yaml {labelled} --describe --json").out)
    assert (plain["templates"], result["templates"]) == (["a photo of a {}."], ["a photo of a {}, {description}."])
    rows_of = {each: run(f"predict {model} described.yaml labelled {each}").table for each in ("", "--describe")}
    encoder = load(str(model))
    texts = ["a photo of a cat, a small feline", "a photo of a dog, a canine"]
    pictures = sorted(Path("labelled").rglob("*.jpg"))
    logits = (
        encoder.logit_scale * encoder.encode_images([p.read_bytes() for p in pictures]) @ encoder.encode_texts(texts).T
    )
    probabilities = {str(p): float(row.max()) for p, row in zip(pictures, logits.softmax(1), strict=True)}
    for row in rows_of["--describe"]:
        assert float(row["probability"]) == pytest.approx(probabilities[row["file"]], abs=2e-3)
    assert rows_of[""] != rows_of["--describe"]
    compared = json.loads(
        run(f"compare {model} described.yaml {labelled} --memory mem --methods primed --describe --json").out
    )
    assert [each["templates"] for each in compared] == [["a photo of a {}, {description}."]] * 2
    refused = run(f"evaluate {model} {task} {labelled} --describe")
    assert refused.status == 1 and "task 'animals' has no descriptions" in refused.line
    refused = run(f"evaluate {model} image-text-retrieval photos --describe")
    assert refused.status == 2 and "--describe is for a TASK with classes" in refused.line


def test_fuse_evaluate_predict(run, model, memory, task, labelled):
    assert run(f"fuse mem --model {model} --kind mean --out fused -k 3").status == 0
    result = json.loads(run(f"evaluate fused {task} {labelled} --json").out)
    assert (result["n"], result["model"]) == (12, "fused")
    assert len(run(f"predict fused {task} photos").table) == 20
    refused = run(f"compare fused {task} {labelled} --memory mem")
    assert (refused.status, "was made by model" in refused.line) == (1, True)
    assert f"load {model}, or create another memory with your model" in refused.line


@pytest.fixture
def asked(monkeypatch):
    """What `customize` and `fuse` were asked for, by verb; they do it, too."""
    seen = {}
    for verb in ("customize", "fuse"):
        made = getattr(training, verb)

        def spy(*given, verb=verb, made=made, **options):
            seen[verb] = {name: value for name, value in options.items() if name not in ("checkpoint", "on_log")}
            return made(*given, **options)

        monkeypatch.setattr(training, verb, spy)
    return seen


def test_options_of_customize_reach_the_function_and_no_others(run, model, memory, task, asked):
    assert run(f"retrieve mem {task} --out found -k 8").status == 0
    customize = f"customize found --model {model} --epochs 1"
    chosen = "--views 1 --gates 1 --loss sigmoid --positives class --weight-decay 0 --warmup 0"
    assert run(f"{customize} --out custom {chosen}").status == 0
    assert asked["customize"] == {
        "tuning": "gated-image", "epochs": 1, "recipe": "anchored", "seed": 0, "views": 1, "gates": 1,
        "loss": "sigmoid", "positives": "class", "weight_decay": 0.0, "warmup": 0.0,
    }  # fmt: skip
    assert run(f"{customize} --out plain").status == 0
    assert asked["customize"] == {"tuning": "gated-image", "epochs": 1, "recipe": "anchored", "seed": 0}


def test_options_of_fuse_reach_the_function_and_no_others(run, model, memory, asked):
    fuse = f"fuse mem --model {model} -k 3"
    assert run(f"{fuse} --out reco --init plain --search cross-modal --values uni-modal --relevance 0.5").status == 0
    given = {"kind": "reco", "k": 3, "seed": 0, "train": None}
    wanted = {"init": "plain", "search": "cross-modal", "values": "uni-modal", "relevance": 0.5}
    assert asked["fuse"] == given | wanted
    card = json.loads(Path("reco/retroclip.json").read_text())
    assert card["options"]["init"] == "plain" and card["settings"]["search"] == "cross-modal"
    assert run(f"{fuse} --out ram --kind ra-clip --blocks 2").status == 0
    assert asked["fuse"] == given | {"kind": "ra-clip", "blocks": 2}
    assert json.loads(Path("ram/retroclip.json").read_text())["options"]["blocks"] == 2


def test_a_saved_model_s_memory_is_evaluated_without_the_evaluated_pictures(run, model, memory, task, photos):
    classes = photos.parent / "seen"
    for number in range(12):
        folder = classes / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes((photos / f"{number:02}.jpg").read_bytes())
    assert run(f"fuse mem --model {model} --kind mean --out fused -k 3").status == 0
    result = json.loads(run(f"evaluate fused {task} seen --json").out)
    assert (result["memory"], result["memory_pairs"], result["near_threshold"]) == ("mem", 20, 0.95)
    assert 12 <= result["excluded_near_duplicates"] < 20


def test_without_a_model_the_one_that_made_the_memory_is_taken(run, model, tiny_model, memory, task, monkeypatch):
    assert run(f"retrieve mem {task} --out found -k 4").status == 0
    told = json.loads(run("memory info mem --json").out)
    assert (
        told["model_reference"] == json.loads(Path("found/retrieved.json").read_text())["provenance"]["model_reference"]
    )
    assert load(told["model_reference"]).fingerprint == told["fingerprint"]
    assert told["model_reference"] in run("memory info mem").out
    used = []

    def train(base, *given, **options):
        used.append(base.fingerprint)
        raise ModelError("stop")

    monkeypatch.setattr("retroclip.training.customize", train)
    assert run("customize found --out custom").status == 1
    monkeypatch.setattr("retroclip.training.fuse", train)
    assert run("fuse mem --out fused").status == 1
    assert used == [told["fingerprint"]] * 2
    for elsewhere, said in (
        ("gone", "name with --model where gone, which made"),
        (tiny_model(1), "another model than"),
    ):
        for verb, card in (("fuse mem", "mem/manifest.json"), ("customize found", "found/retrieved.json")):
            before = Path(card).read_text()
            Path(card).write_text(before.replace(told["model_reference"], str(elsewhere)))
            refused = run(f"{verb} --out other")
            assert refused.status == 1 and said in refused.line and "--model" in refused.line, refused.err
            Path(card).write_text(before)
    assert len(used) == 2


@pytest.mark.parametrize("verb", ["fuse mem", "customize found"])
def test_a_folder_that_is_no_model_is_refused_before_training(run, model, memory, photos, monkeypatch, verb):
    def train(*given, **options):
        raise AssertionError("trained for nothing")

    monkeypatch.setattr("retroclip.training.fuse", train)
    monkeypatch.setattr("retroclip.retrieval.Retrieved.load", train)
    refused = run(f"{verb} --model {model} --out photos")
    assert refused.status == 1
    assert "photos exists and is not a model" in refused.line
    assert len(list(photos.iterdir())) == 40


def test_evaluate_with_a_memory_as_table(run, model, memory, task, labelled):
    shown = run(f"evaluate {model} {task} {labelled} --memory mem")
    assert shown.status == 0
    assert "stacked-linear" in shown.out


def test_the_default_of_a_memory_that_shows_only_evaluated_images(run, model, task, labelled, photos):
    """All pairs that name a class are hidden, and what needs them can't be trained."""
    made = run(f"memory create seen {labelled} --model {model} --labels-as-captions")
    assert made.status == 0
    shown = run(f"evaluate {model} {task} {labelled} --memory seen --json")
    assert (shown.status, json.loads(shown.out)["method"]) == (0, "primed")
    refused = run(f"evaluate {model} {task} {labelled} --memory seen --seed 3")  # 12 pairs name a class
    assert refused.status == 2 and "classification by primed trains and draws nothing: leave out --seed" in refused.line


def test_compare_by_another_metric(run, model, memory, task, labelled):
    shown = run(f"compare {model} {task} {labelled} --memory mem --methods zero-shot --metric mean-per-class --json")
    assert [result["metric"] for result in json.loads(shown.out)] == ["mean-per-class"]


def test_compare_json_report_and_resume(run, model, memory, task, labelled, tmp_path):
    line = f"compare {model} {task} {labelled} --memory mem --methods primed,tip-* --out study"
    line += f" --also {task}={labelled} --json"
    compared = run(line)
    assert compared.status == 0
    results = json.loads(compared.out)
    assert [result["method"] for result in results] == ["zero-shot", "primed", "tip-adapter", "tip-x"]
    assert all(0 <= result["value"] <= 1 for result in results)
    assert [result.method for result in load_results(tmp_path / "study" / "results.json")] == [
        result["method"] for result in results
    ]
    assert "primed" in (tmp_path / "study" / "report.html").read_text()
    again = json.loads(run(line).out)
    assert [result["value"] for result in again] == [result["value"] for result in results]
    assert run("report study/results.json --out page.html").status == 0
    assert (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_a_method_that_fails_is_a_row_and_status_1(run, model, memory, task, labelled, monkeypatch):
    import retroclip.classifiers

    def broken(*args, **options):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(retroclip.classifiers, "tip_adapter", broken)
    compared = run(f"compare {model} {task} {labelled} --memory mem --methods tip-adapter,primed --json")
    assert compared.status == 1
    results = json.loads(compared.out)
    assert [bool(result["error"]) for result in results] == [False, True, False]
    assert "1 of 3 methods failed: tip-adapter" in compared.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("predict {model} {task} nosuch.jpg", "nosuch.jpg does not exist"),
        ("predict {model} {task} empty", "no image file in empty"),
        ("predict {model} nosuch photos", "no task 'nosuch'"),
        ("predict {model} none.yaml photos", "there are no classes"),
        ("predict {model} unknown.yaml photos", "templatez"),
        ("predict {model} {task} photos --method nosuch", "no method is called 'nosuch'"),
        ("predict {model} {task} photos --method gated-image", "needs a memory"),
        ("predict {other} {task} photos --memory mem", "was made by model"),
        ("predict {other} {task} photos --memory mem --calibrate {calibrating}", "was made by model"),
        ("predict {model} {task} photos --calibrate {labelled}", "labelled has 12 images: calibration needs 20"),
        ("predict {model} {task} photos --method linear-probe", "which only `evaluate` and `compare` take"),
        (
            "export {model} --task {task} --memory mem --method tip-adapter --out x",
            "tip-adapter can't be exported: choose",
        ),
        ("export {model} --task {task} --method linear-probe --out x", "which only `evaluate` and `compare` take"),
        ("evaluate {other} {task} {labelled} --memory mem", "was made by model"),
        ("compare {other} {task} {labelled} --memory mem", "was made by model"),
        ("evaluate {model} {task} nosuch.parquet", "nosuch.parquet"),
        ("evaluate {model} eurosat {labelled}", "eurosat"),
        ("evaluate {model} {task} photos", "no labelled image"),
        ("customize nosuch --model {model} --out custom", "nosuch"),
        ("report animals.yaml --out page.html", "animals.yaml"),
        ("report nosuch --out page.html", "no such file or folder of results: nosuch"),
        ("memory search mem --image nosuch.jpg", "nosuch.jpg: No such file"),
        ("memory search mem --image unknown.yaml", "unknown.yaml: not an image"),
        ("memory delete mem --where 'source = old'", "No field named old (columns: "),
        ("memory delete mem --where 'source = old'", "strings stand in single quotes"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    run, model, tiny_model, memory, task, labelled, calibrating, tmp_path, line, told
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.yaml").write_text("name: none\nclasses: []\n")
    (tmp_path / "unknown.yaml").write_text("name: x\nclasses: [cat]\ntemplatez: [a]\n")
    named = {"labelled": labelled, "calibrating": calibrating}
    failed = run(line.format(model=model, other=tiny_model(1), task=task, **named))
    assert failed.status == 1
    assert failed.out == ""
    assert told in failed.line
    assert not (tmp_path / "custom").exists()
    assert not (tmp_path / "page.html").exists()


def test_tasks_and_models(run):
    classes = {row["task"]: row["classes"] for row in json.loads(run("tasks --json").out)}
    assert classes["cifar10"] == 10
    assert "ViT-B-32/openai" in json.loads(run("models 'ViT-B-32/*' --json").out)
    nothing = run("models foo")
    assert nothing.out == "" and "no model is called like 'foo'" in nothing.line


def test_a_probe_learns_from_another_split(run, model, photos, make_encoded):
    """Shots come from the train folder, and the result says so; the evaluated folder itself is refused."""
    for split, first in (("train", 100), ("val", 200)):
        for number in range(12):
            folder = photos.parent / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(make_encoded(first + number))
    ran = run(f"evaluate {model} 'cat, dog' val --train train --shots 2 --json")
    found = json.loads(ran.out)
    assert (found["method"], found["seeds"], found["options"]["shots"]) == ("linear-probe", [0, 1, 2], 2)
    refused = run(f"evaluate {model} 'cat, dog' val --train val --shots 2")
    assert refused.status == 1 and "take the shots from another split" in refused.line
    assert run(f"evaluate {model} 'cat, dog' val --shots 2").status == 2
    assert run(f"evaluate {model} 'cat, dog' val --method linear-probe").status == 1
