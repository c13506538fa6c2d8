"""Training: losses as pure functions, one loop, and thin recipes on it (pre-training, customization, fusion)."""

from retroclip.training.customize import customize
from retroclip.training.few_shot import augmented_probe, fine_tune
from retroclip.training.fuse import fuse

__all__ = ["augmented_probe", "customize", "fine_tune", "fuse"]
