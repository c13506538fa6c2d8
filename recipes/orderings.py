"""What the papers found, as orderings of the variants that `ablations.py` measures."""

from __future__ import annotations

from dataclasses import dataclass

ZERO_SHOT = "zero-shot"
"""In the place of a variant: the model without any memory, over which every row has its gain."""
WITHOUT = ", without retrieval"
"""Ends the name of a control: the same module, trained alike, that sees the query in the neighbours' place."""


@dataclass(frozen=True)
class Ordering:
    """What a paper found: of one group `better` came before `worse`; `reason`: what we know of it where we disagree."""

    group: str
    better: str
    worse: str
    paper: str
    reason: str = ""


FREE_START = (
    "it does learn from its neighbours, see it beside the same layer without retrieval; but it starts at random and "
    "has some thousand pairs to learn from, where the paper has millions. From our identity start the order is the "
    "paper's. How many pairs the free start needs wasn't measured."
)
ROBUST = "RA-CLIP, section E: robust to poor retrieval, since the input's own embedding counts, too"

UNI, CROSS = "reco: uni-modal search, cross-modal values", "reco: {} search, {} values"
ORDERINGS = [
    *(
        Ordering("search and values", UNI, CROSS.format(*other), "RECO: uni-modal search with cross-modal fusion first")
        for other in (("uni-modal", "uni-modal"), ("cross-modal", "cross-modal"), ("cross-modal", "uni-modal"))
    ),
    Ordering("fusion", "RECO, plain start", "mean", "RECO: a trained transformer over the mean", FREE_START),
    Ordering("fusion", "RECO, identity start", "mean", "the same, from our identity start"),
    Ordering("fusion", "RECO, plain start", f"RECO, plain start{WITHOUT}", "RECO: not capacity"),
    Ordering("fusion", "RECO, identity start", f"RECO, identity start{WITHOUT}", "the same, from our identity start"),
    Ordering("fusion", "RA-CLIP, 1 block", f"RA-CLIP, 1 block{WITHOUT}", "RA-CLIP: not capacity"),
    Ordering("neighbours", "RECO, k = 10", "RECO, k = 1", "RECO: several neighbours over one"),
    Ordering("memory size", "RECO, whole memory", "RECO, a tenth", "RECO and REACT: more pairs are better"),
    *(
        Ordering("random neighbours", f"ra-clip, {share} % random", ZERO_SHOT, ROBUST)
        for share in (25, 50, 75)
    ),
    Ordering("retrieval, gated-image", "t2t", "t2i", "REACT, ImageNet: T2T 68.6, T2I 65.8"),
    Ordering("retrieval, gated-image", "both", "both, k = 10", "REACT, ImageNet: 6 M pairs 68.6, 1 M 64.8"),
    Ordering("tuning", "gated-image", "locked-text", "REACT, ImageNet: 68.6 over 66.9"),
    Ordering("tuning", "locked-text", "full", "REACT, ImageNet: 66.9 over 64.3"),
    Ordering("tuning", "full", "locked-image", "REACT, ImageNet: 64.3 over 63.7"),
    Ordering("tuning", "gated-image", "gated-text", "REACT, ImageNet: 68.6 over 63.0"),
    Ordering("loss", "gated-image, REACT's loss", "self-training", "REACT, ImageNet: 68.6 over 66.2"),
    *(
        Ordering(f"low-shot, {how}", f"customized, {shots}", f"base, {shots}", "REACT: over base")
        for how in ("linear probe", "fine-tuning")
        for shots in ("text start, 5 shots", "text start, 20 shots", "text start, 50 shots", "text start, all")
    ),
    *(
        Ordering(f"low-shot, {how}", f"base, text start, {shots}", f"base, random start, {shots}", "REACT: over random")
        for how in ("linear probe", "fine-tuning")
        for shots in ("5 shots", "all")
    ),
]  # fmt: skip
