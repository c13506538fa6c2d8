"""The builtin's recipe from end to end, tiny: killed by SIGKILL and run again, and over two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel

from retroclip.training.builtin import batches, objective
from retroclip.training.builtin.objective import Objective
from retroclip.training.pretrain import run_recipe

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STEPS, KILL_AT, EPOCH = 7, 5, 3
SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_whole_run
test_whole_run.run(sys.argv[1], kill_at=int(sys.argv[2]) if len(sys.argv) > 2 else None)
"""


def run(recipe: str, kill_at: int | None = None) -> list[int]:
    """Run a recipe in epochs of `EPOCH` batches, at most to the step `kill_at`; a number for each step taken."""
    torch.set_num_threads(1)  # sums of another order differ in their last bits
    batches.Batches.length, batches.TRAINED_LENGTH, taken, clamp = EPOCH, 4, [], Objective.clamp

    def count(self: Objective) -> None:
        clamp(self)
        taken.append(len(taken) + 1)
        if len(taken) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Objective.clamp = count
    objective.has_fast_bf16 = lambda device: False  # measured by each process for itself
    run_recipe(recipe, on_progress=lambda line: None)
    return taken


@pytest.fixture
def unpatched(monkeypatch):
    """What `run` changes, put back."""
    threads = torch.get_num_threads()
    patched = ((batches.Batches, "length"), (batches, "TRAINED_LENGTH"), (Objective, "clamp"))
    for owner, name in (*patched, (objective, "has_fast_bf16")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    yield
    torch.set_num_threads(threads)


def text_tower(folder: Path) -> Path:
    """A BERT of one layer as wide as the builtin's text tower, with a tokenizer that knows letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters, *(f"##{letter}" for letter in letters)])}
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=384, num_hidden_layers=1, num_attention_heads=6, intermediate_size=32
    )
    folder.mkdir()
    torch.manual_seed(1)
    save_file(BertModel(config).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string())
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "model.safetensors"


@pytest.fixture
def recipe_of(tmp_path, make_pairs):
    """`recipe_of(name, **fields)`: a tiny recipe whose work and model lie in a folder of that name."""
    leaves = ImageNetInfo().label_names()
    nouns = (f"{leaf[1:]} 03 n 01 {leaf} 0 000 | a thing  \n" for leaf in leaves)
    (tmp_path / "data.noun").write_text("".join(nouns))
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite2").state_dict(), tmp_path / "net.pth")
    (tmp_path / "photos").mkdir()
    for pair in make_pairs(3):
        (tmp_path / "photos" / f"{pair.key}.png").write_bytes(pair.image)
        (tmp_path / "photos" / f"{pair.key}.txt").write_text(pair.captions[0])
    fields = {
        "kind": "builtin",
        "data": str(tmp_path),
        "image_weights": str(tmp_path / "net.pth"),
        "text_weights": str(text_tower(tmp_path / "text")),
        "wordnet": str(tmp_path / "data.noun"),
        "sources": [{"name": "photos", "file": "photos", "share": 4, "text": "captions", "views": 2}],
        "frozen_text_layers": 0,
        "text_lr_scale": 1.0,  # the bank of class texts shall move
        "warmup": 2,
        "bank_every": 2,
        "steps": STEPS,
    }

    def write(name: str, **other: float) -> Path:
        (tmp_path / name).mkdir()
        places = {"work": str(tmp_path / name / "work"), "out": str(tmp_path / name / "model")}
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(fields | places | other))
        return tmp_path / name / "recipe.yaml"

    return write


@pytest.mark.usefixtures("unpatched")
def test_a_run_killed_with_sigkill_ends_with_the_same_weights(recipe_of, tmp_path):
    killed = recipe_of("killed")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(killed), str(KILL_AT)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    progress = json.loads((tmp_path / "killed" / "work" / "state" / "progress.json").read_text())
    assert 0 < progress["step"] < KILL_AT and progress["skip"] and progress["epoch"]
    assert len(run(str(killed))) == STEPS - progress["step"]
    run(str(recipe_of("whole")))
    for part in ("work/state/model.safetensors", "model/open_clip_model.safetensors"):
        expected, resumed = (load_file(tmp_path / name / part) for name in ("whole", "killed"))
        assert expected.keys() == resumed.keys()
        different = [name for name in expected if not torch.equal(expected[name].float(), resumed[name].float())]
        assert not different


@pytest.mark.slow
@pytest.mark.usefixtures("unpatched")
def test_two_processes_learn_what_one_learns(recipe_of, tmp_path, in_two_processes):
    drops = {"patch_drop": 0.0, "map_drop": 0.0, "drop_path": 0.0}  # drawn by each process for its own rows
    in_two_processes(SCRIPT, recipe_of("two", **drops))
    run(str(recipe_of("one", **drops)))
    two, one = (json.loads((tmp_path / name / "work" / "history.json").read_text())[-1] for name in ("two", "one"))
    for name in ("loss", "caption", "bank", "relation", "logit_scale"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
