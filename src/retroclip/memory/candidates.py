"""The best rows for many queries, gathered from score matrices that come piece by piece."""

import torch

NOTHING = -2_000_000_000
"""Below every score: lower ones (-inf, the smallest int32) mark rows that are no candidates."""


class Candidates:
    """The `depth` best rows of each of `queries` queries among all that are offered, without a sort per piece.

    Once a query has met `depth` rows, only rows above the worst of these are kept: a comparison a score, and few
    survive. `margin` (queries,) keeps those within so much below it as well.
    """

    def __init__(self, queries: int, depth: int, *, margin: torch.Tensor | None = None) -> None:
        self.depth = depth
        self._widened = margin is not None
        self._margin = torch.zeros(queries) if margin is None else margin
        self._least = torch.full((queries,), float(NOTHING))
        self._open = torch.ones(queries, dtype=torch.bool)
        self._pieces: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def offer(self, of: torch.Tensor, scores: torch.Tensor, places: torch.Tensor, *, block: int = 64) -> None:
        """Scores (m, n), float or int32, of the queries `of` (m,) with the rows at `places` (n,).

        Queries that have not met enough rows yet, as far as `settle` knows, hand over their `depth` best of these.
        """
        if bool(self._open[of].all()):
            best = scores.topk(min(self.depth, scores.shape[1]), dim=1, sorted=False)
            if self._widened:
                least = best.values.amin(dim=1).float() - self._margin[of]
                rows, columns, values = _above(scores, least.to(scores.dtype), block)
                self._pieces.append((of[rows], places[columns], values.float()))
                return
            rows, columns = of.repeat_interleave(best.values.shape[1]), best.indices.flatten()
            values = best.values.flatten()
            kept = values > NOTHING
            rows, columns, values = rows[kept], columns[kept], values[kept]
        else:
            rows, columns, values = _above(scores, self._least[of].to(scores.dtype), block)
            rows = of[rows]
        self._pieces.append((rows, places[columns], values.float()))

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
        self._least[full] = scores[first[full] + self.depth - 1] - self._margin[full]
        self._open = ~full
        kept = scores >= self._least[queries]
        if not self._widened:  # ties with the last place would widen the rows for nothing
            kept = torch.arange(len(queries)) - first[queries] < self.depth
        result = queries[kept], places[kept], scores[kept]
        self._pieces = [result]
        return result


def _above(scores: torch.Tensor, least: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and values of the scores (m, n) that are at least `least` (m,).

    Where n is large, maxima of blocks of columns are compared first, and then only inside the blocks that pass.
    """
    width = scores.shape[1]
    if width % block or width < 16 * block:
        rows, columns = (scores >= least[:, None]).nonzero(as_tuple=True)
        return rows, columns, scores[rows, columns]
    blocked = scores.unflatten(1, (-1, block))
    rows, blocks = (blocked.amax(dim=2) >= least[:, None]).nonzero(as_tuple=True)
    inner = blocked[rows, blocks]
    found, offsets = (inner >= least[rows, None]).nonzero(as_tuple=True)
    return rows[found], blocks[found] * block + offsets, inner[found, offsets]
