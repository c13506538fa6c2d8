"""How the builtin model is made: warm-started towers, cached feature maps, captions, labels and a teacher."""

from retroclip.training.builtin.recipe import BuiltinRecipe
from retroclip.training.builtin.train import train_builtin

__all__ = ["BuiltinRecipe", "train_builtin"]
