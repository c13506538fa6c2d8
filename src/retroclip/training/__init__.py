"""Training: losses as pure functions, one loop, and thin recipes on it (pre-training, customization, fusion)."""

from retroclip.training.customize import customize
from retroclip.training.fuse import fuse

__all__ = ["customize", "fuse"]
