"""What `retroclip train` promises of every kind of recipe: a model, resuming after SIGKILL, the same over processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import retroclip
from retroclip.errors import RetroclipError
from retroclip.training.pretrain import read_recipe, run_recipe

KINDS = ["formal-clip", "icar", "ra-clip"]
EXTRA = {
    "formal-clip": {"ancestors": 0.5, "jitter": 0.2},
    "icar": {"gloss_share": 1.0, "rand_augment": "rand-m9-mstd0.5-inc1", "negatives": 1},
    "ra-clip": {"reference": 0.4, "k": 2, "heads": 2},
}
WEIGHTS = "open_clip_model.safetensors"
RUN = "from retroclip.training.pretrain import run_recipe; import sys; run_recipe(sys.argv[1])"


@pytest.fixture
def recipe_of(tiny_recipe, tiny_model):
    def make(folder: Path, kind: str, **fields) -> Path:
        extra = EXTRA[kind] | ({"retriever": str(tiny_model())} if kind == "ra-clip" else {})
        return tiny_recipe(folder, kind, **(extra | fields))

    return make


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved model, the fusion's included."""
    files = sorted(out.rglob("*.safetensors"))
    assert files
    return {f"{file.relative_to(out)}:{name}": value for file in files for name, value in load_file(file).items()}


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_makes_a_model_that_loads(recipe_of, tmp_path, make_pairs, kind):
    history = run_recipe(recipe_of(tmp_path, kind), on_progress=lambda line: None)
    assert history["step"] == list(range(1, 9)) and history["loss"][-1] < history["loss"][0]
    encoder = retroclip.load(str(tmp_path / "model"), precision="fp32")
    assert encoder.encode_images([pair.image for pair in make_pairs(1)]).shape == (3, 16)
    assert encoder.encode_texts(["a red square"]).shape == (1, 16)
    assert json.loads((tmp_path / "work" / "history.json").read_text()) == history.rows


@pytest.fixture
def one_thread():
    """As many threads as the runs in `environment`: sums of another order differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_with_sigkill_ends_with_the_same_weights(recipe_of, tmp_path, kind):
    run_recipe(recipe_of(tmp_path / "whole", kind, steps=24), on_progress=lambda line: None)
    killed = recipe_of(tmp_path / "killed", kind, steps=24)
    state = tmp_path / "killed" / "work" / "state" / "progress.json"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(killed)], env=environment(), stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not state.exists():
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state.exists() or state.parent.with_name("state.old").exists()
    assert not (tmp_path / "killed" / "model").exists(), "the run was over before it could be killed"
    run_recipe(killed, on_progress=lambda line: None)
    expected, resumed = weights(tmp_path / "whole" / "model"), weights(tmp_path / "killed" / "model")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_two_processes_learn_what_one_learns(recipe_of, tmp_path, kind, shard, in_two_processes):
    alone = run_recipe(recipe_of(tmp_path / "one", kind, steps=5), on_progress=lambda line: None)
    in_two_processes(RUN, recipe_of(tmp_path / "two", kind, steps=5, shard=shard))
    rows = json.loads((tmp_path / "two" / "work" / "history.json").read_text())
    assert [row["loss"] for row in rows] == pytest.approx(alone["loss"], rel=1e-4)
    one, two = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    for name, value in one.items():
        if not name.endswith("in_proj_bias"):  # a key's bias has no gradient but rounding, which Adam makes large
            torch.testing.assert_close(two[name], value, rtol=1e-2, atol=2e-4)


def test_another_recipe_over_the_same_work_is_refused(recipe_of, tmp_path):
    run_recipe(recipe_of(tmp_path, "formal-clip"), on_progress=lambda line: None)
    with pytest.raises(RetroclipError, match="another lr"):
        run_recipe(recipe_of(tmp_path, "formal-clip"), {"lr": 0.1}, on_progress=lambda line: None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "ViT-Z"}, "no architecture is called 'ViT-Z'"),
        ({"text_tower": "nowhere"}, "no config.json of a text tower"),
        ({"wordnet": None, "ancestors": 1.0}, "need `wordnet`"),
        ({"sources": []}, "sources is empty"),
        ({"steps": 8, "speed": 3}, "speed"),
        ({"steps": 0}, "steps: Input should be greater than 0"),
        ({"lr": -1.0}, "lr: Input should be greater than 0"),
        ({"lr": float("nan")}, "lr: Input should be a finite number"),
        ({"betas": [2, 3]}, "betas.0: Input should be less than 1"),
        ({"crop": [0.9, 0.1]}, "crop is the smallest and then the largest share"),
        ({"log_every": 0}, "log_every: Input should be greater than 0"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"model": {"embed_dim": 16}}, "the recipe's model has no vision_cfg"),
        ({"synsets": {"red": "x"}}, "has no noun 'x'"),
        ({"rand_augment": "nonsense"}, "no RandAugment is called 'nonsense'"),
    ],
)
def test_a_bad_recipe_is_one_clear_line(recipe_of, tmp_path, fields, message):
    with pytest.raises(RetroclipError, match=message) as caught:
        run_recipe(recipe_of(tmp_path, "formal-clip", **fields), on_progress=lambda line: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_missing_wordnet_is_told_before_any_work(recipe_of, tmp_path):
    with pytest.raises(RetroclipError, match="no WordNet noun file here"):
        run_recipe(recipe_of(tmp_path, "formal-clip", wordnet="nowhere"), on_progress=pytest.fail)


def test_what_is_no_recipe_is_one_clear_line(tmp_path):
    file = tmp_path / "recipe.yaml"
    for text, message in ((b"\xff\xfe", "not YAML"), (b"kind: [icar]", "a field `kind`"), (b"kind: icar\n1: 2", ": ")):
        file.write_bytes(text)
        with pytest.raises(RetroclipError, match=f"recipe.yaml: .*{message}"):
            read_recipe(file)
    with pytest.raises(RetroclipError, match=r"there is no field 'kind\.x' to set"):
        read_recipe(file, {"kind.x": 1})
    with pytest.raises(RetroclipError, match="a field `kind`"):
        read_recipe(file, {"kind": "gan"})


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_recipe_parses(file):
    assert read_recipe(file).steps > 0


@pytest.fixture(scope="session")
def roberta(tmp_path_factory) -> Path:
    """A folder with a tiny RoBERTa's config.json and a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig

    folder = tmp_path_factory.mktemp("roberta")
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "photo", "of", "the", "red", "green", "blue", "square", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaConfig(vocab_size=len(words), max_position_embeddings=82, **sizes).save_pretrained(folder)
    return folder


def test_swin_and_roberta_by_name(recipe_of, roberta, tmp_path, make_pairs):
    sources = [
        {"name": "captioned", "file": "captioned.parquet", "share": 2},
        {"name": "labelled", "file": "labelled.parquet", "share": 2, "text": "labels"},
    ]
    named = {"model": "iCAR-Swin-T-RoBERTa", "text_tower": str(roberta), "sources": sources}
    run_recipe(recipe_of(tmp_path, "icar", steps=2, drop_path=0.1, **named), on_progress=lambda line: None)
    encoder = retroclip.load(str(tmp_path / "model"), precision="fp32")
    assert type(encoder.model.visual.trunk).__name__ == "SwinTransformer"
    assert type(encoder.model.text.transformer).__name__ == "RobertaModel"
    image, texts = [make_pairs(1)[0].image], ["a red square", "the blue square of a photo ."]
    assert encoder.encode_images(image).shape == (1, 512) and encoder.encode_texts(texts).shape == (2, 512)
