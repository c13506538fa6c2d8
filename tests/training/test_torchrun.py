"""Customization, fusion, fine-tuning under torchrun: two processes learn what one learns, and one writes and speaks."""

import contextlib
import io
import os
from pathlib import Path

import pytest
import torch

import retroclip
from retroclip.classifiers import LinearClassifier
from retroclip.cli import main
from retroclip.encoders import Encoder, precision
from retroclip.fusion import MemoryEncoder
from retroclip.tasks import Task
from retroclip.training import customize, distributed, fine_tune, fuse
from retroclip.training.fuse import FusionObjective
from retroclip.training.tuning import Towers

TASK = Task("colours", classes=["red", "green", "blue"])
BATCH = 6
COMMON = {"epochs": 1, "batch_size": BATCH, "seed": 3}
VERBS = {
    "gated-image": {"tuning": "gated-image", "gates": 2, "views": 1},
    "full": {"tuning": "full", "loss": "sigmoid", "micro_batch": 2},
    "reco": {"kind": "reco", "k": 4},
    "ra-clip": {"kind": "ra-clip", "k": 4, "heads": 2},
    "published": {"recipe": "react-published", "gates": 2, "micro_batch": 2, "lr": 5e-3},
    "published locked-image": {"recipe": "react-published", "tuning": "locked-image", "lr": 1e-3},
    "few-shot": {"views": 1},
}
LINES = {
    "customized": "customize found --model model --epochs 1 --batch-size 12",
    "fused": "fuse memory --model model -k 4",
}
SCRIPT = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_torchrun
test_torchrun.run_all(Path(sys.argv[1]))
"""


def trained(verb: str, folder: Path, on_log=None):
    """What a verb makes of the model and the memory in `folder`."""
    encoder, memory = retroclip.load(str(folder / "model"), precision="fp32"), retroclip.Memory.open(folder / "memory")
    options = COMMON | VERBS[verb] | {"on_log": on_log}
    if verb == "few-shot":
        images = memory.take(memory.ids(), ["image"])["image"].to_pylist()
        return fine_tune(encoder, TASK, images, torch.arange(len(images)) % len(TASK.classes), **options)
    if "kind" in options:
        return fuse(encoder, memory, **options)
    return customize(encoder, retroclip.retrieve(memory, TASK, encoder=encoder, k=8), **options)


def results(verb: str, folder: Path, on_log=None):
    """The losses of a verb, and what it trained."""
    made = trained(verb, folder, on_log)
    if isinstance(made, LinearClassifier):
        state = made.encoder.model.state_dict() | {"class weights": made.weights}
        return [row["loss"] for row in made.history], state
    module = made.fusion if isinstance(made, MemoryEncoder) else made.model
    return made.history["loss"], module.state_dict()


def watch_rows(kind: type, name: str) -> list[int]:
    """How many rows each call of a method takes, filled in as they come."""
    method, seen = getattr(kind, name), []

    def watched(self, *args):
        seen.append(len(args[-1]))
        return method(self, *args)

    setattr(kind, name, watched)
    return seen


def run_all(folder: Path) -> None:
    """In one of two processes: every verb in Python, then both on the command line; all of it left in `folder`."""
    precision._bf16_wins_on_cpu = lambda: os.environ["RANK"] == "1"  # alone, it would compute in another format
    distributed.start()
    rank = distributed.world()[0]
    assert not precision.has_fast_bf16(torch.device("cpu"))
    encoded = [watch_rows(*each) for each in ((Towers, "_image_rows"), (FusionObjective, "refined"))]
    told: list[dict[str, float]] = []
    torch.save({verb: results(verb, folder, told.append) for verb in VERBS}, folder / f"{rank}.pt")
    assert bool(told) == (rank == 0)
    assert all(max(rows) == BATCH // 2 for rows in encoded), encoded
    saves: list[str] = []
    for kind in (Encoder, MemoryEncoder):
        save = kind.save
        kind.save = lambda *args, save=save: (saves.append(Path(args[1]).name), save(*args))
    for out, line in LINES.items():
        tokens = [str(folder / token) if (folder / token).exists() else token for token in line.split()]
        spoken = io.StringIO()
        with contextlib.redirect_stderr(spoken), contextlib.redirect_stdout(spoken):
            status = main([*tokens, "--out", str(folder / out)])
        assert status == 0 and (folder / out).is_dir(), spoken.getvalue()
        (folder / f"{out}-{rank}.txt").write_text(spoken.getvalue())
    (folder / f"saves-{rank}.txt").write_text(" ".join(saves))


@pytest.fixture
def alike(monkeypatch):
    """One thread and fp32, as in the two processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(precision, "_settled", [False])
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("alike")
def test_two_processes_learn_what_one_learns_and_one_of_them_writes(tiny_model, make_pairs, tmp_path, in_two_processes):
    (tmp_path / "model").symlink_to(tiny_model(0))
    encoder = retroclip.load(str(tmp_path / "model"), precision="fp32")
    memory = retroclip.Memory.create(tmp_path / "memory", encoder, [make_pairs(8)])
    retroclip.retrieve(memory, TASK, encoder=encoder, k=8).save(tmp_path / "found")
    in_two_processes(SCRIPT, tmp_path)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for verb in VERBS:
        losses, weights = results(verb, tmp_path)
        for shared_losses, shared_weights in (share[verb] for share in shares):
            assert shared_losses == pytest.approx(losses, rel=1e-4), verb
            for name, value in weights.items():
                if not name.endswith("in_proj_bias"):  # a key's bias has no gradient but rounding, which Adam enlarges
                    torch.testing.assert_close(shared_weights[name], value, rtol=1e-2, atol=2e-4, msg=f"{verb}: {name}")
    spoken = {out: [(tmp_path / f"{out}-{rank}.txt").read_text() for rank in range(2)] for out in LINES}
    assert all(f"{tmp_path / out}: " in main and other == "" for out, (main, other) in spoken.items())
    # a model that consults a memory saves the one beneath it as well
    assert [(tmp_path / f"saves-{rank}.txt").read_text() for rank in range(2)] == ["customized fused base", ""]
    assert not list(tmp_path.glob(".*"))
    for out in LINES:
        assert retroclip.load(str(tmp_path / out)).dim == encoder.dim
