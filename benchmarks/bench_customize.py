"""Gated-image customization of ViT-B-32 (random weights), beside a straightforward implementation: make bench

Both tune the same six gated blocks from the same start on the same photos and captions (the samples'), in the same
batches of 64 with the same class-aware loss and AdamW, one after the other in one process. The peer decodes each image
at each step, runs both whole towers in fp32, the text tower over the whole context, and checkpoints the gradients
through the gates. Ours is `retroclip.customize` as a user calls it, everything counted: decoding, text embeddings,
what it caches, and the copy of the model that it makes. Printed: pairs a second of one epoch and of further ones, and
both loss curves. Kept as benchmarks/results/customize.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from importlib.resources import files

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from open_clip.factory import get_model_config
from record import store
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import retroclip
from retroclip.encoders import Encoder, add_gates, gate_parameters, image_blocks
from retroclip.pairs import decode_image
from retroclip.retrieval import Retrieved, named_classes
from retroclip.tasks import Task
from retroclip.training.loop import warmup_cosine

NAME, BATCH, LR, SEED = "ViT-B-32", 64, 5e-4, 0


def pairs(count: int, encoder: Encoder) -> Retrieved:
    """Photos of the samples whose caption names one class of their task, as if retrieved for it."""
    folder = files("retroclip") / "samples"
    task = Task.load(str(folder / "things.yaml"))
    rows = pq.read_table(str(folder / "memory.parquet"), columns=["key", "image", "caption"]).to_pylist()
    named = named_classes([(row["caption"],) for row in rows], task)
    chosen = [(row, own) for row, own in zip(rows, named, strict=True) if len(own) == 1][:count]
    empty = torch.zeros(len(chosen), encoder.dim)
    return Retrieved(
        task=task,
        ids=np.arange(len(chosen)),
        keys=[row["key"] for row, _ in chosen],
        captions=[(row["caption"],) for row, _ in chosen],
        images=[row["image"] for row, _ in chosen],
        classes=[own for _, own in chosen],
        scores=np.zeros(len(chosen), np.float32),
        modes=[("t2t",)] * len(chosen),
        image_embeddings=empty,
        text_embeddings=empty,
        provenance={"fingerprint": encoder.fingerprint},
    )


class CheckpointedGates(nn.Module):
    """An image block whose gate runs first, its activations computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate, self.block = block.gated_attn_block, block
        block._forward_pre_hooks.clear()

    def forward(self, tokens: Tensor, **options: object) -> Tensor:
        gated = checkpoint(self.gate, tokens, use_reentrant=False) if torch.is_grad_enabled() else self.gate(tokens)
        return self.block(gated, **options)


def straightforward(encoder: Encoder, found: Retrieved, steps: int, total: int) -> tuple[list[float], float]:
    """Losses and seconds of `steps` steps of the plain implementation, on a schedule of `total`."""
    model = copy.deepcopy(encoder.model).float().requires_grad_(False)
    torch.manual_seed(SEED)
    add_gates(model, last=6)
    trained = [*gate_parameters(model), model.logit_scale]
    for parameter in trained:
        parameter.requires_grad_(True)
    blocks = image_blocks(model)
    for row in range(6, 12):
        blocks[row] = CheckpointedGates(blocks[row])
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98))
    start, losses = time.perf_counter(), []
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(1_000_003 * SEED))
    for step, rows in enumerate(order.tensor_split(-(-len(found) // BATCH))[:steps]):
        for group in optimizer.param_groups:
            group["lr"] = LR * warmup_cosine(step, steps=total, warmup=round(0.1 * total))
        pixels = torch.stack([encoder.preprocess(decode_image(found.images[row])) for row in rows.tolist()])
        tokens = encoder.tokenizer([found.captions[row][0] for row in rows.tolist()])
        u, v = F.normalize(model.encode_image(pixels), dim=-1), F.normalize(model.encode_text(tokens), dim=-1)
        labels = found.label[rows]
        same = (labels[:, None] == labels[None, :]).float()
        targets, logits = same / same.sum(1, keepdim=True), model.logit_scale.exp() * u @ v.T
        loss = 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.logit_scale.data.clamp_(0, 4.6052)
        losses.append(float(loss.detach()))
    return losses, time.perf_counter() - start


def ours(encoder: Encoder, found: Retrieved, epochs: int, total: int) -> tuple[list[float], float]:
    """Losses and seconds of `customize` with REACT's recipe."""
    found.cached.clear()
    start = time.perf_counter()
    steps = epochs * -(-len(found) // BATCH)
    custom = retroclip.customize(
        encoder, found, recipe="react", epochs=epochs, batch_size=BATCH, lr=LR, gates=6, seed=SEED
    )
    assert steps == total
    return custom.history["loss"], time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--peer-steps", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(1)
    model = open_clip.model.CLIP(**get_model_config(NAME))
    with torch.no_grad():
        # At open_clip's initial scales all photos look alike to a random model, and nothing can be learnt.
        model.visual.conv1.weight.mul_(5)
        model.token_embedding.weight.normal_(std=0.5)
    preprocess = {"size": 224, "mode": "RGB", "mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    options = {"model_cfg": get_model_config(NAME), "preprocess_cfg": preprocess, "precision": "auto"}
    encoder = Encoder(NAME, model, open_clip.get_tokenizer(NAME), **options)
    found = pairs(given.pairs, encoder)
    steps = -(-len(found) // BATCH)
    print(f"{NAME}, {len(found)} pairs in batches of {BATCH}, {encoder.precision}, {torch.get_num_threads()} threads")
    fast, seconds = ours(encoder, found, 1, steps)
    slow, peer = straightforward(encoder, found, given.peer_steps, steps)
    rate, peer_rate = len(found) / seconds, given.peer_steps * len(found) / steps / peer
    print(f"one epoch: {rate:.1f} pairs/s, straightforward {peer_rate:.1f}/s, ratio {rate / peer_rate:.1f}")
    _, three = ours(encoder, found, 3, 3 * steps)
    later = 2 * len(found) / (three - seconds)
    print(f"later epochs: {later:.1f} pairs/s, ratio {later / peer_rate:.1f}")
    print("losses, ours:           ", *(f"{value:.3f}" for value in fast))
    print("losses, straightforward:", *(f"{value:.3f}" for value in slow))
    rates = {"one epoch": rate, "later epochs": later, "straightforward": peer_rate}
    store(
        "customize",
        {"model": NAME, "precision": encoder.precision, "pairs": len(found), "batch": BATCH}
        | {"pairs_a_second": rates, "losses": {"ours": fast, "straightforward": slow}},
        versions=("open_clip_torch",),
    )


if __name__ == "__main__":
    main()
