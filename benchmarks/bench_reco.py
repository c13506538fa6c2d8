"""RECO's fusion trained on cached embeddings, beside a plain nn.TransformerEncoderLayer: make bench

Both train the same two layers (images and texts, d = 512, 8 heads, k = 10) from the same weights with the same
three-term loss and AdamW on the same random embeddings, one after the other in one process. The peer runs the layer
over all k + 1 tokens in fp32 and takes token 0, with the loss written with cross-entropies. Printed: pairs a second of
the layers alone (both sides, forward and backward) and of whole steps with loss and update, and how far the outputs and
the losses of the two lie apart. Kept as benchmarks/results/reco.json.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from record import store
from torch import Tensor, nn

from retroclip.fusion import RecoFusion
from retroclip.training.losses import reco_loss

DIM, HEADS, K, BATCH, STEPS, SCALE = 512, 8, 10, 2048, 2, 100.0
SIDES = ("image", "text")


class Peer(nn.Module):
    """`PlainLayer` as one would write it: the whole layer over all tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, 0.0, F.gelu, batch_first=True, norm_first=True)
        own = {n: v for n, v in layer.state_dict().items() if n not in ("type_embedding", "gate")}
        self.layer.load_state_dict(own)
        self.type_embedding, self.gate = copy.deepcopy(layer.type_embedding), copy.deepcopy(layer.gate)

    def forward(self, query: Tensor, neighbours: Tensor) -> Tensor:
        tokens = torch.cat([query[:, None] + self.type_embedding[0], neighbours + self.type_embedding[1]], dim=1)
        first = self.layer(tokens)[:, 0]
        return F.normalize(query + torch.tanh(self.gate) * (first - query), dim=-1)


def peer_loss(refined_v: Tensor, refined_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    own = torch.arange(len(v))
    loss = torch.zeros(())
    for a, b in ((refined_v, refined_t), (refined_v, t), (v, refined_t)):
        logits = SCALE * a @ b.T
        loss = loss + 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    return loss


def seconds(work: Callable[[], object], steps: int = STEPS) -> float:
    """The best of some runs, after one that doesn't count."""
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    torch.manual_seed(0)
    fusion = RecoFusion(DIM, HEADS, init="plain")
    for layer in fusion.layers.values():
        layer.gate.data.fill_(0.5)
    peers = nn.ModuleDict({side: Peer(fusion.layers[side]) for side in SIDES})
    query = {side: F.normalize(torch.randn(BATCH, DIM), dim=-1) for side in SIDES}
    near = {side: F.normalize(torch.randn(BATCH, K, DIM), dim=-1) for side in SIDES}

    def ours() -> list[Tensor]:
        return [fusion(query[side], near[side], side=side) for side in SIDES]

    def theirs() -> list[Tensor]:
        return [peers[side](query[side], near[side]) for side in SIDES]

    with torch.no_grad():
        apart = max(float((a - b).abs().max()) for a, b in zip(ours(), theirs(), strict=True))
    print(f"d = {DIM}, k = {K}, batch {BATCH}, fp32, {torch.get_num_threads()} threads")
    print(f"outputs differ by at most {apart:.1e}")
    layers = [seconds(lambda run=run: sum(out.square().sum() for out in run()).backward()) for run in (ours, theirs)]
    rates = {"layers alone": tell("layers alone", *layers)}

    curves: list[list[float]] = []
    whole = []
    for module, run, loss_of in (
        (fusion, ours, lambda a, b: reco_loss(a, b, query["image"], query["text"], SCALE)),
        (peers, theirs, lambda a, b: peer_loss(a, b, query["image"], query["text"])),
    ):
        module.zero_grad()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=module is fusion)
        curve: list[float] = []

        def step(run=run, loss_of=loss_of, optimizer=optimizer, curve=curve) -> None:  # type: ignore[no-untyped-def]
            loss = loss_of(*run())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))

        whole.append(seconds(step))
        curves.append(curve)
    rates["whole steps"] = tell("whole steps", *whole)
    print("losses, ours: ", *(f"{value:.4f}" for value in curves[0]))
    print("losses, peer: ", *(f"{value:.4f}" for value in curves[1]))
    store(
        "reco", {"batch": BATCH, "dim": DIM, "k": K, "outputs_apart": apart, "pairs_a_second": rates, "losses": curves}
    )


def tell(what: str, fast: float, slow: float) -> dict[str, float]:
    """Print and return the rates of both, given the seconds of a batch."""
    print(f"{what}: {BATCH / fast:.0f} pairs/s, plain layer {BATCH / slow:.0f}/s, ratio {slow / fast:.1f}")
    return {"ours": BATCH / fast, "plain layer": BATCH / slow}


if __name__ == "__main__":
    main()
