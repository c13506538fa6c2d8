"""The best rows for many queries, gathered from score matrices that come piece by piece."""

import torch

NOTHING = -2_000_000_000
"""Below every score: lower ones (-inf, the smallest int32) mark rows that are no candidates."""
BLOCKED_LEAST = 2**17
"""Scores; maxima of blocks pay for more."""
ROUNDING = 2.0**-8
"""How far rounding to bfloat16 moves a number at most, as a share of it."""


class Candidates:
    """The `depth` best rows of each of `queries` queries among all that are offered, without a sort per piece.

    Once a query has met `depth` rows, only rows above the worst of these are kept: a comparison a score, and few
    survive. `margin` (queries,) is for bfloat16 scores, which are each within half of it of the true one before they
    are rounded: rows that may be among the best are kept as well.
    """

    def __init__(self, queries: int, depth: int, *, margin: torch.Tensor | None = None) -> None:
        self.depth = depth
        self._widened = margin is not None
        self._margin = torch.zeros(queries) if margin is None else margin
        self._least = torch.full((queries,), float(NOTHING))
        self._open = torch.ones(queries, dtype=torch.bool)
        self._all_open = self._any_open = True
        self._pieces: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def offer(self, of: torch.Tensor, scores: torch.Tensor, places: torch.Tensor, *, block: int = 64) -> None:
        """Scores (m, n), float or int32, of the queries `of` (m,) with the rows at `places` (n,).

        Queries that have not met enough rows yet, as far as `settle` knows, hand over their `depth` best of these.
        """
        if self._widened:
            least = self._least[of]
            if self._all_open or (self._any_open and bool(self._open[of].any())):
                least = torch.maximum(least, self._bar(_reached_by(scores, self.depth, block), of))
            rows, columns, values = _above(scores, least.to(scores.dtype), block)
            rows = of[rows]
        elif self._all_open or (self._any_open and bool(self._open[of].all())):
            best = scores.topk(min(self.depth, scores.shape[1]), dim=1, sorted=False)
            rows, columns = of.repeat_interleave(best.values.shape[1]), best.indices.flatten()
            values = best.values.flatten()
            kept = values > NOTHING
            rows, columns, values = rows[kept], columns[kept], values[kept]
        else:
            rows, columns, values = _above(scores, self._least[of].to(scores.dtype), block)
            rows = of[rows]
        self._pieces.append((rows, places[columns].long(), values.float()))

    def hold(self, places: torch.Tensor, scores: torch.Tensor) -> None:
        """Places and scores (queries, m) that another index has chosen; places below 0 are empty."""
        of = torch.arange(len(places)).repeat_interleave(places.shape[1])
        kept = places.flatten() >= 0
        self._pieces.append((of[kept], places.flatten()[kept], scores.flatten()[kept]))

    def settle(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keep the best so far and raise the bar; returns (queries, places, scores), by query and then best first."""
        if not self._pieces:
            empty = torch.zeros(0, dtype=torch.int64)
            return empty, empty, torch.zeros(0)
        queries, places, scores = (torch.cat(part) for part in zip(*self._pieces, strict=True))
        order = scores.argsort(descending=True, stable=True)
        order = order[queries[order].argsort(stable=True)]
        queries, places, scores = queries[order], places[order], scores[order]
        counts = torch.bincount(queries, minlength=len(self._least))
        first = counts.cumsum(0) - counts
        full = counts >= self.depth
        self._least[full] = self._bar(scores[first[full] + self.depth - 1], full.nonzero()[:, 0])
        self._open = ~full
        self._all_open, self._any_open = not bool(full.any()), not bool(full.all())
        kept = scores >= self._least[queries]
        if not self._widened:  # ties with the last place would widen the rows for nothing
            kept = torch.arange(len(queries)) - first[queries] < self.depth
        result = queries[kept], places[kept], scores[kept]
        self._pieces = [result]
        return result

    def _bar(self, worst: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        """What scores must reach, where the worst of `depth` ones is `worst`; rounded as they are."""
        if not self._widened:
            return worst
        return (worst.float() - worst.float().abs() * ROUNDING - self._margin[of]).bfloat16().float()


def _reached_by(scores: torch.Tensor, depth: int, block: int) -> torch.Tensor:
    """A score that at least `depth` of each row's (m, n) reach, (m,): the worst of the `depth` best, or a little less.

    The maxima of blocks of columns are as many scores; -inf where there are fewer than `depth`.
    """
    width = scores.shape[1]
    if width < depth:
        return torch.full((len(scores),), -torch.inf)
    if width >= 4 * depth * block:
        scores = scores[:, : width - width % block].unflatten(1, (-1, block)).amax(dim=2)
    return scores.topk(depth, dim=1, sorted=False).values.amin(dim=1)


def _above(scores: torch.Tensor, least: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and values of the scores (m, n) that are at least `least` (m,).

    Where n is large, maxima of blocks of columns are compared first, and then only inside the blocks that pass.
    """
    width = scores.shape[1] - scores.shape[1] % block
    if width < 16 * block or scores.numel() < BLOCKED_LEAST:
        rows, columns = (scores >= least[:, None]).nonzero(as_tuple=True)
        return rows, columns, scores[rows, columns]
    blocked = scores[:, :width].unflatten(1, (-1, block))
    rows, blocks = (blocked.amax(dim=2) >= least[:, None]).nonzero(as_tuple=True)
    inner = blocked[rows, blocks]
    found, offsets = (inner >= least[rows, None]).nonzero(as_tuple=True)
    whole = rows[found], blocks[found] * block + offsets, inner[found, offsets]
    if width == scores.shape[1]:
        return whole
    rows, columns, values = _above(scores[:, width:], least, block)
    return torch.cat([whole[0], rows]), torch.cat([whole[1], columns + width]), torch.cat([whole[2], values])
