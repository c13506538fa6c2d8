"""The variants of heads on pairs that name a class, which `ablations.py` measures in three groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from variants import Build, Variant

from retroclip.methods import MethodContext, get_method

FEW = (1, 2, 3, 5, 10, 20)
OTHER_BASE: dict[str, dict[str, Any]] = {
    "stacked-linear": {"class texts not moved": {"alpha": 1.0}},
    "stacked-linear-features": {"class texts moved": {"alpha": 0.5}},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "relevance not asked": {"sharpness": 0.0},
    "no prior": {"prior": 0.0},
}


def heads(context: MethodContext, group: str = "heads") -> Iterator[Variant]:
    """Heads on the pairs that name a class, and what keeps ours from harm where these mislead."""
    yield Variant(group, "REAL-Linear", made(context, "real-linear"))
    for method, other_base in OTHER_BASE.items():
        yield Variant(group, method, made(context, method))
        yield Variant(group, f"{method}, the head alone", made(context, method, alone=True))
        for what, options in (other_base | WITHOUT).items():
            yield Variant(group, f"{method}, {what}", made(context, method, **options))


def heads_of_few(context: MethodContext) -> Iterator[Variant]:
    """The same where the memory has few pairs a class; seeds draw them."""
    for few in FEW:
        for what, options in ({"stacked-linear": {}} | OTHER_BASE["stacked-linear"]).items():
            build = made(context, "stacked-linear", per_class=few, **options)
            yield Variant("heads, few pairs", f"{few} a class, {what}", build)


def made(context: MethodContext, method: str, alone: bool = False, **options: Any) -> Build:
    """A method with options, or its head without the class texts."""

    def make(seed: int) -> Any:
        own = replace(context, seed=seed, options={**context.options, method: options})
        head: Any = get_method(method)(own)
        if alone:
            head.texts, head.moved = torch.zeros_like(head.texts), torch.zeros_like(head.moved)
        return head

    return Build(make, {"method": method, "alone": alone, **options})
