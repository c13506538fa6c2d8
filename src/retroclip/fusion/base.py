"""What every fusion is: a module from a query and its neighbours' embeddings to a refined query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from retroclip.memory import Memory
    from retroclip.memory.opened import Modality


class Fusion(nn.Module):
    """Refines the modalities in `sides`; `options` are the keyword arguments that build it again."""

    sides: tuple[Modality, ...]
    options: dict[str, Any]

    def prepare(self, memory: Memory) -> None:
        """Take from the memory what the fusion needs to know of it as a whole, before anything is searched."""

    def asking(self, query: Tensor, side: Modality) -> Tensor:
        """What is searched with for a query (n, d) of modality `side`: the query itself unless said otherwise."""
        return query

    def forward(
        self,
        query: Tensor,
        neighbours: Tensor,
        *,
        side: Modality,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        """Query (n, d) of modality `side`, unit norm → (n, d), unit norm.

        neighbours: (n, k, d) embeddings of the k found pairs, by default of the modality the query lacks; keys:
        (n, k, d) those of its own; mask: (n, k), False for no neighbour; scores: (n, k), the search's cosines.
        """
        raise NotImplementedError
