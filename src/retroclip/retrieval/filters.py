"""Which retrieved pairs to leave out: mismatched ones, and images too near to others. Pure functions."""

import torch

CLIP_SCORE = 0.30
"""REACT's threshold; made for OpenAI's CLIP."""
DROPPED_QUANTILE = 0.065
"""The share that it dropped there: for other encoders the same quantile."""


def clip_scores(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosine of each pair's image and text embedding (m, d) → (m,); NaN where the text is a zero vector."""
    scores = (images * texts).sum(dim=1)
    return torch.where(texts.norm(dim=1) > 0, scores, torch.nan)


def well_matched(scores: torch.Tensor, minimum: float | str) -> torch.Tensor:
    """Mask (m,) of the pairs to keep: score ≥ minimum, or for "quantile" all but the lowest 6.5 %.

    Pairs without text (NaN) have no score that could speak against them and are kept.
    """
    known = scores[~scores.isnan()]
    if isinstance(minimum, str):
        if minimum != "quantile":
            raise ValueError(f"min_clip_score is {minimum!r}: give a cosine or 'quantile'")
        if not len(known):
            return torch.ones(len(scores), dtype=torch.bool)
        minimum = float(torch.quantile(known.double(), DROPPED_QUANTILE))
    return scores.isnan() | (scores.double() >= minimum)


def near_any(rows: torch.Tensor, others: torch.Tensor, threshold: float, step: int = 4096) -> torch.Tensor:
    """Mask (m,) of the rows (m, d) with a cosine above `threshold` to any of `others` (n, d); both unit norm."""
    if not len(others):
        return torch.zeros(len(rows), dtype=torch.bool)
    near = [(chunk @ others.T).amax(dim=1) > threshold for chunk in rows.split(step)]
    return torch.cat(near) if near else torch.zeros(0, dtype=torch.bool)


def distinct(rows: torch.Tensor, threshold: float, step: int = 1024) -> torch.Tensor:
    """Mask (m,) that keeps, in order, each row (m, d) without a cosine above `threshold` to one kept before."""
    keep = torch.ones(len(rows), dtype=torch.bool)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        keep[start : start + step] = ~near_any(chunk, rows[:start][keep[:start]], threshold)
        inside = chunk @ chunk.T > threshold
        for row in range(1, len(chunk)):
            if keep[start + row] and (inside[row, :row] & keep[start : start + row]).any():
                keep[start + row] = False
    return keep
