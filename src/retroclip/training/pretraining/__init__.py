"""Pre-training from scratch: Formal CLIP, iCAR and RA-CLIP as one recipe with three sets of defaults."""

from retroclip.training.pretraining.recipe import FormalClipRecipe, IcarRecipe, PretrainRecipe, RaClipRecipe
from retroclip.training.pretraining.train import pretrain

__all__ = ["FormalClipRecipe", "IcarRecipe", "PretrainRecipe", "RaClipRecipe", "pretrain"]
