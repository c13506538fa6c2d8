"""Models that consult a memory or a reference set: what works on the towers alone would lose that, and refuses them."""

from __future__ import annotations

from typing import Any

from retroclip.errors import ModelError


def refuse_consulting(encoder: Any, advice: str) -> None:
    """Raise ModelError, ending in `advice` on the model beneath, for an encoder that `consults` something."""
    if consulted := getattr(encoder, "consults", None):
        raise ModelError(f"{encoder.name} consults {consulted}: {advice} (`.base`, or base/ in its folder)")
