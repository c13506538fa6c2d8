"""Every method of the registry over a real memory and a tiny model with random weights."""

import io
import json

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from retroclip.encoders import load
from retroclip.errors import MemoryStoreError
from retroclip.evaluation import compare, evaluate, evaluate_retrieval, load_samples, prepare_context
from retroclip.fusion import MemoryEncoder, build_fusion
from retroclip.memory import Memory
from retroclip.methods import list_methods
from retroclip.report import Report, collect_examples, collect_retrieved, render, summarise_memory
from retroclip.tasks import Task

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220)}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def coloured(name, rng):
    """A noisy tile of one colour."""
    pixels = np.array(COLOURS[name]) + rng.normal(scale=40, size=(32, 32, 3)) + rng.normal(scale=25, size=3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Encoder, task, data set and memory of coloured tiles; the memory also holds three of the evaluation images."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG)
    (folder / "model").mkdir()
    save_file(model.state_dict(), folder / "model" / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}
    (folder / "model" / "open_clip_config.json").write_text(json.dumps(config))
    names = [name for name in COLOURS for _ in range(12)]
    val = [coloured(name, rng) for name in names]
    pq.write_table(pa.table({"key": [str(i) for i in range(36)], "image": val, "label": names}), folder / "val.parquet")
    own = [name for name in COLOURS for _ in range(15)]
    images = [coloured(name, rng) for name in own] + val[:3]
    captions = [f"a {name} tile" for name in own] + ["a red tile"] * 3
    table = pa.table({"key": [f"m{i}" for i in range(48)], "image": images, "caption": captions})
    pq.write_table(table, folder / "memory.parquet")
    shots = pa.table({"image": [coloured(name, rng) for name in own], "label": own})
    pq.write_table(shots, folder / "train.parquet")
    encoder = load(str(folder / "model"), precision="fp32")
    memory = Memory.create(folder / "memory", encoder, [folder / "memory.parquet"])
    return encoder, Task("colours", classes=list(COLOURS)), folder / "val.parquet", memory


def test_every_method_gives_a_row_and_the_report_shows_them(problem):
    encoder, task, dataset, memory = problem
    # Random weights put all tiles within a narrow cone: only the very same image counts as a duplicate here.
    near = {"near_threshold": 0.99999}
    short = {"epochs": 1, "batch_size": 32}
    options = {
        "retrieve": {"k": 10},
        "reco": {"epochs": 1, "k": 3},
        "ra-clip": {"epochs": 1, "k": 3},
        "locked-text": short,
        "gated-image": short | {"gates": 2},
        "locked-text-react": short,
        "gated-image-react": short | {"gates": 2},
        "locked-text-react-published": short,
        "gated-image-react-published": short | {"gates": 2},
        "linear-probe-sgd": {"epochs": 5, "views": 1},
        "linear-probe-sgd-text": {"epochs": 5, "views": 1},
        "fine-tune": short | {"views": 1},
    }
    samples = load_samples(task, dataset)
    rows = compare(
        encoder, task, samples, memory,
        methods=["*"], seeds=[0], options=options, also=[(task, dataset)], resamples=100,
        train=dataset.with_name("train.parquet"), shots=8, **near,
    )  # fmt: skip
    assert {row.method: row.error for row in rows} == dict.fromkeys(list_methods())
    by_name = {row.method: row for row in rows}
    assert by_name["zero-shot"].value == evaluate(encoder, task, dataset, resamples=0).value
    assert all(row.excluded_near_duplicates == 3 for row in rows)
    trained = {name for name, row in by_name.items() if row.trained_parameters}
    assert {"real-linear", "reco", "ra-clip", "locked-text", "gated-image"} <= trained
    without_steps = {"mean-neighbours", "linear-probe", "linear-probe-features", "linear-probe-text"}
    assert all(by_name[name].history for name in trained - without_steps)
    forgetful = {name for name, row in by_name.items() if row.forgetting}
    kinds = ("", "-react", "-react-published", "-averaged")
    tuned = {f"{tuning}{kind}" for tuning in ("locked-text", "gated-image") for kind in kinds}
    fused = {"mean-neighbours", "mean-neighbours-centred", "reco", "reco-plain", "ra-clip"}
    assert forgetful == fused | tuned | {"gated-image-siglip", "self-training"}
    for name in forgetful:
        (row,) = by_name[name].forgetting
        assert (row.value, row.base) == pytest.approx((by_name[name].value, by_name["zero-shot"].value))

    context = prepare_context(encoder, task, samples, memory, options=options, **near)
    best = max(rows[1:], key=lambda row: row.value)
    page = render(
        Report(
            results=rows,
            examples=collect_examples(rows[0], best, samples, context.memory, samples.embed_base(encoder)),
            examples_method=best.method,
            retrieved=collect_retrieved(context.retrieved, task, task.classes),
            memories=[summarise_memory(memory, task, name="tiles")],
        )
    )
    assert "100.0 % with a caption that names a class" in page
    assert "a red tile" in page


def test_a_memory_of_another_model_is_refused(problem):
    encoder, task, dataset, memory = problem
    torch.manual_seed(1)
    other = encoder.with_model(open_clip.model.CLIP(**CONFIG), name="other")
    with pytest.raises(MemoryStoreError, match="was made by model"):
        compare(other, task, dataset, memory, methods=["primed"])


def test_a_model_that_consults_a_memory_is_no_longer_the_model_that_made_it(problem):
    encoder, task, dataset, memory = problem
    fused = MemoryEncoder(encoder, memory, build_fusion("mean", dim=32))
    with pytest.raises(MemoryStoreError, match=r"was made by model .*, not by .* \+ mean"):
        compare(fused, task, dataset, memory, methods=["primed"])


def test_image_text_retrieval_on_the_memory_s_source(problem):
    encoder = problem[0]
    source = problem[2].with_name("memory.parquet")
    result = evaluate_retrieval(encoder, source, resamples=50)
    assert result.n == 48
    assert result.options["captions"] == 48
    assert result.metrics["i2t-recall@10"] <= 1
