"""iCAR's ablations in small, on cached features: python recipes/icar.py ../shared/data [--wordnet /usr/share/wordnet]

Images are the pooled features of the builtin's convolutional net, texts the builtin's text embeddings; both stay
frozen and a two-layer map of each is trained, three seeds: classes are 200 of Tiny ImageNet (30 photos each),
captions those of 3,000 photos of Flickr8k. Tested on Tiny ImageNet `val` (direct) and on four tasks none of whose
images were trained on (zero-, 1-, 4- and 16-shot, drawn from `train` without near-duplicates of evaluated images).
Written to docs/results/icar.json. Killed and run again, it goes on after the last finished feature file. Nothing was
chosen by these figures: rates and steps are those first written down.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from icar_features import Features, conv_features, keep
from timm.data import ImageNetInfo
from torch import Tensor, nn

import retroclip
from retroclip.files import write_whole
from retroclip.pairs import Pair, read_pairs
from retroclip.tasks import Task
from retroclip.tasks.wordnet import read_nouns, read_senses, synset_of
from retroclip.training.loop import fit
from retroclip.training.losses import classification_loss, unified_loss
from retroclip.training.pretraining.texts import WNID

VARIANTS = ("linear", "cosine", "captions only", "split heads", "text classifier", "with descriptions")
TASKS = {"caltech101": "caltech101", "cifar10": "cifar10", "cifar100": "cifar100", "intel-scenes": "intel_scenes"}
DRAWN = "from the first 20 of each class in train, without near-duplicates of evaluated images"
SHOTS, SEEDS, SCALE, TEMPLATE = (1, 4, 16), (0, 1, 2), 20.0, "a photo of a {}."


class Towers(nn.Module):
    """Two-layer maps of both feature kinds into one space, and the heads of a variant."""

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        self.variant = variant
        self.image = nn.Sequential(nn.Linear(1280, 512), nn.GELU(), nn.Linear(512, 256))
        self.text = nn.Sequential(nn.Linear(384, 512), nn.GELU(), nn.Linear(512, 256))
        self.head = nn.Linear(256, classes)

    def texts(self, x: Tensor) -> Tensor:
        return F.normalize(self.text(x), dim=-1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raw = self.image(batch["images"])
        labels, classified = batch["labels"], batch["labels"] >= 0
        images = F.normalize(raw, dim=-1)
        captions = self.texts(batch["captions"])
        if self.variant in ("text classifier", "with descriptions"):
            return {"loss": unified_loss(images, labels, self.texts(batch["classes"]), captions, SCALE)}
        loss = images.new_zeros(())
        if self.variant != "captions only":
            head = self.head(raw[classified])
            if self.variant == "cosine":
                weights = F.normalize(self.head.weight, dim=-1)
                loss = loss + classification_loss(images[classified], weights, labels[classified], SCALE)
            else:
                loss = loss + F.cross_entropy(head, labels[classified])
        if self.variant in ("captions only", "split heads"):
            loss = loss + unified_loss(images[~classified], labels[~classified], images, captions, SCALE)
        return {"loss": loss}

    def direct(self, x: Tensor, classes: Tensor) -> Tensor:
        """Predictions (n,) over the trained classes, whose texts are `classes`: by the head where there is one."""
        raw = self.image(x)
        if self.variant in ("linear", "split heads"):
            return self.head(raw).argmax(1)
        weights = F.normalize(self.head.weight, dim=-1) if self.variant == "cosine" else self.texts(classes)
        return (F.normalize(raw, dim=-1) @ weights.T).argmax(1)


class FewShot(nn.Module):
    """Class weights (K, d), cosine, on frozen embeddings; they start from texts or at random (iCAR, section 3.4)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.clone())

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": classification_loss(batch["x"], F.normalize(self.weights, dim=-1), batch["y"], SCALE)}


def few_shot(x: Tensor, y: Tensor, start: Tensor, seed: int) -> Tensor:
    """Trained weights (K, d): 100 full-batch steps."""
    probe = FewShot(start)
    fit(probe, lambda epoch: [{"x": x, "y": y}], steps=100, lr=0.01, weight_decay=0.0, log_every=100, seed=seed)
    return F.normalize(probe.weights.detach(), dim=-1)


def class_sentences(names: list[str], displayed: list[str], wordnet: Path, ids: dict[str, str]) -> list[list[str]]:
    """Names in the template, without and with ", gloss" (Eq. 5)."""
    synsets, senses = read_nouns(wordnet), read_senses(wordnet)
    pictured = set(ImageNetInfo("imagenet-22k").label_names())
    plain = [TEMPLATE.format(name) for name in displayed]
    found = [ids.get(name) or synset_of(shown, senses, pictured) for name, shown in zip(names, displayed, strict=True)]
    described = [
        f"{text.rstrip('.')}, {synsets[id_].gloss}" if id_ else text for text, id_ in zip(plain, found, strict=True)
    ]
    return [plain, described]


def accuracy(predicted: Tensor, y: Tensor) -> float:
    return 100 * float((predicted == y).float().mean())


def train(variant: str, data: dict[str, Any], seed: int, steps: int = 600) -> Towers:
    """One variant: batches of 128 labelled and 128 captioned images, or 256 of the one kind it knows."""
    torch.manual_seed(seed)
    towers = Towers(variant, int(data["y"].max()) + 1)
    labelled, captioned = variant != "captions only", variant not in ("linear", "cosine")
    size = 128 if labelled and captioned else 256
    described = variant == "with descriptions"

    def batches(epoch: int) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng([seed, epoch])
        for _ in range(50):
            rows = rng.choice(len(data["x"]), size * labelled, replace=False)
            pairs = rng.choice(len(data["pairs"]), size * captioned, replace=False)
            yield {
                "images": torch.cat([data["x"][rows], data["pairs"][pairs]]),
                "labels": torch.cat([data["y"][rows], torch.full((len(pairs),), -1)]),
                "captions": data["captions"][pairs, int(rng.integers(data["captions"].shape[1]))],
                "classes": data["classes"][int(described)],
            }

    fit(towers, batches, steps=steps, lr=1e-3, weight_decay=0.05, warmup=50, grad_clip=5.0, log_every=steps, seed=seed)
    return towers.requires_grad_(False)


def measure(towers: Towers, data: dict[str, Any], seed: int) -> dict[str, float]:
    """Direct accuracy, and zero- and few-shot accuracy as the mean over the four tasks."""
    described = int(towers.variant == "with descriptions")
    values: dict[str, list[float]] = defaultdict(list)
    values["direct"].append(accuracy(towers.direct(data["test_x"], data["classes"][described]), data["test_y"]))
    if towers.variant == "split heads":
        text = F.normalize(towers.image(data["test_x"]), dim=-1) @ towers.texts(data["classes"][0]).T
        values["direct, by text"].append(accuracy(text.argmax(1), data["test_y"]))
    for task in data["tasks"]:
        train_x, test_x = (F.normalize(towers.image(task[name]), dim=-1) for name in ("train_x", "test_x"))
        texts = towers.texts(task["classes"][described])
        generator = torch.Generator().manual_seed(seed)
        random = F.normalize(torch.randn(texts.shape, generator=generator), dim=-1)
        reads = towers.variant not in ("linear", "cosine")
        if reads:
            values["0-shot"].append(accuracy((test_x @ texts.T).argmax(1), task["test_y"]))
        order = torch.randperm(len(train_x), generator=generator)
        for shots in SHOTS:
            own = [order[task["train_y"][order] == c][:shots] for c in range(len(texts))]
            rows = torch.cat(own)
            for name, start in (("text start", texts), ("random start", random)):
                if reads or name == "random start":
                    weights = few_shot(train_x[rows], task["train_y"][rows], start, seed)
                    predicted = (test_x @ weights.T).argmax(1)
                    values[f"{shots}-shot, {name}"].append(accuracy(predicted, task["test_y"]))
    return {name: mean(each) for name, each in values.items()}


def prepare(data: Path, wordnet: Path, work: Path) -> dict[str, Any]:
    """Every feature that training and tests need."""
    encoder = retroclip.load("builtin", precision="fp32")
    work = work / encoder.fingerprint[:8]
    work.mkdir(parents=True, exist_ok=True)
    tiny = Task.load("tiny-imagenet")
    train_set = Features(encoder, tiny, data / "tiny_imagenet.parquet", "train", work, 30)
    test_set = Features(encoder, tiny, data / "tiny_imagenet.parquet", "val", work, 10)
    file = work / "flickr.pt"
    if not file.exists():
        pairs = [p for p in read_pairs(f"{data / 'flickr8k.parquet'}#train") if isinstance(p, Pair)][:6000:2]
        texts = [[p.captions[i % len(p.captions)] for p in pairs] for i in range(5)]
        captions = torch.stack([encoder.encode_texts(own) for own in texts], dim=1)
        keep({"x": conv_features(encoder, [p.image for p in pairs]), "captions": captions}, file)
        print("flickr.pt", flush=True)
    flickr = torch.load(file, weights_only=True)
    ids = {}
    for pair in read_pairs(f"{data / 'tiny_imagenet.parquet'}#train"):
        found = WNID.search(pair.key)
        if isinstance(pair, Pair) and pair.label and found:
            ids[pair.label] = found[0]
    tasks = []
    for name, stem in TASKS.items():
        task = Task.load(name)
        shown = [task.display_name(c) for c in task.classes]
        sentences = class_sentences(task.classes, shown, wordnet, {})
        entry: dict[str, Any] = {"classes": [encoder.encode_texts(own) for own in sentences]}
        tested = ("val", max(10, 1000 // len(task.classes)))
        for part, split, each in (("train", "train", 20), ("test", *tested)):
            evaluated = tested if part == "train" else None
            rows = Features(encoder, task, data / f"{stem}.parquet", split, work, each, evaluated)
            entry[f"{part}_x"] = rows.x
            entry[f"{part}_y"] = torch.tensor([task.label_index[label] for label in rows.labels])
        tasks.append(entry)
    sentences = class_sentences(tiny.classes, [tiny.display_name(c) for c in tiny.classes], wordnet, ids)
    number = tiny.label_index
    return {
        "fingerprint": encoder.fingerprint,
        "x": train_set.x,
        "y": torch.tensor([number[label] for label in train_set.labels]),
        "test_x": test_set.x,
        "test_y": torch.tensor([number[label] for label in test_set.labels]),
        "pairs": flickr["x"],
        "captions": flickr["captions"],
        "classes": [encoder.encode_texts(own) for own in sentences],
        "tasks": tasks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--work", type=Path, default=Path("runs/icar"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/icar.json"))
    parser.add_argument("--again", action="store_true", help="also what is stored for this model")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    given = parser.parse_args()
    data = prepare(given.data, given.wordnet, given.work)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for variant in given.variants:
        if variant in kept(given.out, data["fingerprint"]) and not given.again:
            continue
        runs = [measure(train(variant, data, seed), data, seed) for seed in SEEDS]
        values = {name: [run[name] for run in runs] for name in runs[0]}
        summary = {name: [round(mean(each), 1), round(stdev(each), 1)] for name, each in values.items()}
        print(variant, *(f"{name} {m:.1f} ± {sd:.1f}" for name, (m, sd) in summary.items()), sep=" | ", flush=True)
        store(given.out, variant, summary, data["fingerprint"])


def kept(file: Path, fingerprint: str) -> dict[str, Any]:
    """The variants in the file, if they are of the same model and their shots were drawn as they are now."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    return stored["results"] if (stored.get("fingerprint"), stored.get("shots")) == (fingerprint, DRAWN) else {}


def store(file: Path, variant: str, summary: dict[str, list[float]], fingerprint: str) -> None:
    """Mean and standard deviation of one variant's figures, beside those of the others already in the file."""
    head = {
        "fingerprint": fingerprint,
        "metric": "top-1, %: mean and standard deviation over the seeds",
        "seeds": list(SEEDS),
        "trained on": "tiny_imagenet#train (30 a class), flickr8k#train (3,000 photos)",
        "tested on": ["tiny-imagenet (direct)", *TASKS],
        "shots": DRAWN,
    }
    results = {**kept(file, fingerprint), variant: summary}
    write_whole(file, json.dumps({**head, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
