"""Figures and time of `retroclip evaluate` beside CLIP_benchmark 1.6.2: make bench

Both are command lines that read the same folder in CLIP_benchmark's layout (images, class names, templates, captions)
and the same file of ViT-B-32 weights, each in a process of its own, loading included. The peer has its own environment,
made here, which borrows this one's torch and open_clip: the kernels are the same on both sides.

No trained weights of a public CLIP are needed: the towers are random (seed 0), and the image projection is fitted by
ridge regression to the class texts on the data set's `train` split, so that accuracy is well above chance and a change
of precision has something to spoil. The penalty is the smallest at which bf16 keeps the bound that `auto` goes by
(`encoders.precision`), on other images of `train`; printed. The figures of `val` are compared, never used. Times are
processor time of all processes and, between brackets, by the clock. Everything is kept in
benchmarks/results/clip_benchmark-PART.json.

Data: caltech101.parquet and flickr8k.parquet in a folder (first argument, default ../shared/data). About 15 minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pyarrow.parquet as pq
import torch
from record import store
from safetensors.torch import save_file
from torch.nn.functional import normalize

import retroclip
from retroclip.encoders.images import image_batches
from retroclip.encoders.precision import FIDELITY_BOUND
from retroclip.tasks import Task, template_sets

PEER = "clip-benchmark==1.6.2"
BESIDE = ("webdataset", "braceexpand", "tqdm", "pycocoevalcap", "pycocotools")
UNDECLARED = ("requests", "urllib3", "idna", "certifi", "charset-normalizer")  # imported, and no dependency of it
OLDER = ("numpy<2.4",)  # it makes Python scalars of arrays of one element, which later ones refuse
ARCHITECTURE = "ViT-B-32"
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
KS = (1, 5, 10)
USED = ("open_clip_torch", "torchvision")


def make_peer(folder: Path) -> Path:
    """An environment with the peer and its NumPy; the rest is found in the running one. Returns its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        site = next((folder / "lib").glob("python3*/site-packages"))
        (site / "zz_borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run(
            [python, "-I", "-m", "pip", "install", "--quiet", "--no-deps", PEER, *BESIDE, *UNDECLARED, *OLDER],
            check=True,
        )
    return python


def write_folder(final: Path, samples: list[list[tuple[str, bytes]]], **files: str) -> Path:
    """Two shards (the peer wants one a worker) of a split called test, and the text files beside it."""
    root = final.with_name(f"{final.name}.partial")  # a run that was killed here leaves no half folder
    shutil.rmtree(root, ignore_errors=True)
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text("2\n")
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text)
    half = len(samples) // 2
    for number, part in enumerate((samples[:half], samples[half:])):
        with tarfile.open(root / "test" / f"{number}.tar", "w") as tar:
            for name, data in (member for sample in part for member in sample):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    os.replace(root, final)
    return final


def classification_folder(data: Path, root: Path, share: float) -> Path:
    """Caltech-101 `val` with ImageNet's 80 templates, or a share of both."""
    task, templates = Task.load("caltech101"), template_sets()["imagenet"][:: round(1 / share)]
    rows = pq.read_table(data / "caltech101.parquet", filters=[("split", "==", "val")]).to_pylist()
    members = []
    for number, row in enumerate(rows[:: round(1 / share)]):
        label = task.label_index[row["label"]]
        members.append([(f"{number:06}.jpg", row["image"]), (f"{number:06}.cls", str(label).encode())])
    return write_folder(
        root,
        members,
        classnames="\n".join(task.display_name(name) for name in task.classes) + "\n",
        zeroshot_classification_templates="\n".join(t.replace("{}", "{c}") for t in templates) + "\n",
    )


def retrieval_folder(data: Path, root: Path, share: float) -> Path:
    """Flickr8k `val` with its five captions, or a share of it."""
    rows = pq.read_table(data / "flickr8k.parquet", filters=[("split", "==", "val")]).to_pylist()
    members = []
    for number, row in enumerate(rows[:: round(1 / share)]):
        captions = "\n".join(row["captions"]).encode()
        members.append([(f"{number:06}.jpg", row["image"]), (f"{number:06}.txt", captions)])
    return write_folder(root, members, dataset_type="retrieval\n")


def make_weights(data: Path, file: Path) -> Path:
    """ViT-B-32 with random towers and a fitted image projection."""
    if file.exists():
        return file
    torch.manual_seed(0)
    drawn = file.with_name("random.safetensors")
    save_file(open_clip.create_model(ARCHITECTURE).state_dict(), drawn)
    encoder = retroclip.load(f"{ARCHITECTURE}@{drawn}", precision="fp32")
    task = Task.load("caltech101")
    texts = retroclip.zero_shot(encoder, task).weights
    every = pq.read_table(data / "caltech101.parquet", filters=[("split", "==", "train")]).to_pylist()
    rows, others = every[::3], [row["image"] for row in every[1::12]]  # a third is enough to be above chance
    tower = encoder.model.visual
    projection, tower.proj = tower.proj, None
    features = pooled(encoder, [row["image"] for row in rows])
    exact, rounded = pooled(encoder, others), pooled(encoder.copy(precision="bf16"), others)
    labels = torch.tensor([task.label_index[row["label"]] for row in rows])
    mean = features.mean(0)
    for ridge in RIDGES:
        fitted = fit(features - mean, (texts - texts.mean(0))[labels], ridge)
        a, b = (normalize((of - mean) @ fitted, dim=-1) for of in (exact, rounded))
        fidelity = float((a * b).sum(dim=-1).min())
        print(f"ridge {ridge}: least cosine of bf16 to fp32 {fidelity:.4f}, {len(others)} images of train", flush=True)
        if fidelity >= FIDELITY_BOUND:
            break
    with torch.no_grad():
        tower.ln_post.bias -= mean
        tower.proj = torch.nn.Parameter(fitted / fitted.norm() * projection.norm())
    save_file({name: value.contiguous() for name, value in encoder.model.state_dict().items()}, file)
    return file


def fit(features: torch.Tensor, wanted: torch.Tensor, ridge: float) -> torch.Tensor:
    """Weights (f, d) of the ridge regression from centred features (n, f) to `wanted` (n, d)."""
    gram = features.double().T @ features.double()
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve(gram + penalty, features.double().T @ wanted.double()).float()


@torch.no_grad()
def pooled(encoder: retroclip.Encoder, images: list[bytes]) -> torch.Tensor:
    """The image tower's output (n, f) in front of its projection, which has been taken out."""
    return torch.cat(
        [encoder.encode_pixels(pixels).float() for pixels in image_batches(images, encoder.preprocess, 64)]
    )


class Took(NamedTuple):
    """What a command took: processor seconds of all its processes together, and seconds by the clock."""

    processor: float
    clock: float

    def __str__(self) -> str:
        return f"{self.processor:.0f} processor seconds ({self.clock:.0f} s)"

    def over(self, peer: Took) -> str:
        return f"ratio {self.processor / peer.processor:.3f} ({self.clock / peer.clock:.3f})"


def run(command: list[str | Path], environment: dict[str, str]) -> tuple[str, Took]:
    """What a command printed, and what it took; its output is shown when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(list(map(str, command)), check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, Took(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock)


def ours(weights: Path, task: str | Path, folder: Path, precision: str) -> tuple[dict, Took]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    model = f"{ARCHITECTURE}@{weights}"
    command = [sys.executable, "-m", "retroclip", "evaluate", model, task, f"{folder}#test", "--json"]
    out, took = run([*command, "--precision", precision], environment)
    return json.loads(out), took


def theirs(python: Path, weights: Path, folder: Path, task: str, *, amp: bool, workers: int) -> tuple[dict, Took]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    out = folder / "peer.json"
    command = [python, "-m", "clip_benchmark.cli", "eval", "--dataset", f"wds/{folder.name}", "--dataset_root", folder]
    command += ["--task", task, "--split", "test", "--model", ARCHITECTURE, "--pretrained", weights, "--output", out]
    command += ["--recall_k", *map(str, KS), "--num_workers", str(workers), "--quiet", *([] if amp else ["--no_amp"])]
    # The package has no __main__; its console script does just this.
    command[1:3] = ["-c", "from clip_benchmark.cli import main; main()"]
    _, took = run(command, environment)
    return json.loads(out.read_text())["metrics"], took


def show(part: str, pairs: list[tuple[str, float, float]], own: Took, peer: Took, **more: str) -> dict[str, Any]:
    """Print one comparison; returns its record."""
    difference = max(abs(mine - other) for _, mine, other in pairs)
    shown = ", ".join(f"{name} {mine:.5f} (peer {other:.5f})" for name, mine, other in pairs)
    print(f"{part}: {shown}; largest difference {difference:.1e}", flush=True)
    print(f"{part}: {own}, peer {peer}, {own.over(peer)}", flush=True)
    return {
        "part": part, **more, "largest_difference": difference,
        "figures": {name: {"ours": mine, "peer": other} for name, mine, other in pairs},
        "ours": own._asdict(), "peer": peer._asdict(),
        "ratio": {"processor": own.processor / peer.processor, "clock": own.clock / peer.clock},
    }  # fmt: skip


def classification(python: Path, weights: Path, folder: Path, workers: int) -> list[dict[str, Any]]:
    peer, took = theirs(python, weights, folder, "zeroshot_classification", amp=False, workers=workers)
    records = []
    for precision in ("fp32", "auto"):
        mine, own = ours(weights, folder, folder, precision)
        named = [("top1", "acc1"), ("top5", "acc5"), ("mean-per-class", "mean_per_class_recall")]
        pairs = [(a, mine["metrics"][a], peer[b]) for a, b in named]
        records.append(show(f"classification, {precision}", pairs, own, took, precision=mine["precision"]))
    return records


def autocast(python: Path, weights: Path, folder: Path, workers: int) -> list[dict[str, Any]]:
    """The peer as it runs by default, beside ours as it runs by default."""
    peer, took = theirs(python, weights, folder, "zeroshot_classification", amp=True, workers=workers)
    mine, own = ours(weights, folder, folder, "auto")
    pairs = [("top1", mine["metrics"]["top1"], peer["acc1"])]
    return [show("classification, auto, peer with autocast", pairs, own, took, precision=mine["precision"])]


def retrieval(python: Path, weights: Path, folder: Path, workers: int) -> list[dict[str, Any]]:
    peer, took = theirs(python, weights, folder, "zeroshot_retrieval", amp=False, workers=workers)
    mine, own = ours(weights, "image-text-retrieval", folder, "fp32")
    named = [(f"i2t-recall@{k}", f"text_retrieval_recall@{k}") for k in KS]
    named += [(f"t2i-recall@{k}", f"image_retrieval_recall@{k}") for k in KS]
    pairs = [(a, mine["metrics"][a], peer[b]) for a, b in named]
    return [show("retrieval, fp32", pairs, own, took, precision=mine["precision"])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, help="keep environment, weights and folders here")
    parser.add_argument("--part", choices=["all", "prepare", "classification", "autocast", "retrieval"], default="all")
    parser.add_argument("--share", type=float, default=1.0, help="of the images and of the templates")
    parser.add_argument("--workers", type=int, default=2, help="the peer's --num_workers")
    given = parser.parse_args()
    if not (given.data / "caltech101.parquet").is_file():
        print(f"no caltech101.parquet in {given.data}: nothing measured")
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = (given.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        python, weights = make_peer(work / "peer"), make_weights(given.data, work / "vit_b_32.safetensors")
        classes, captions = work / f"caltech-{given.share}", work / f"flickr-{given.share}"
        if not classes.exists():
            classification_folder(given.data, classes, given.share)
        if not captions.exists():
            retrieval_folder(given.data, captions, given.share)
        print(f"{ARCHITECTURE}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}", flush=True)
        parts = {"classification": (classification, classes), "autocast": (autocast, classes)}
        parts |= {"retrieval": (retrieval, captions)}
        for name, (measure, folder) in parts.items():
            if given.part in ("all", name):
                found = measure(python, weights, folder, given.workers)
                store(f"clip_benchmark-{name}", {"peer": PEER, "share": given.share, "measured": found}, versions=USED)


if __name__ == "__main__":
    main()
