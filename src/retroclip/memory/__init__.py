"""A memory of image-text pairs with both embeddings: stored by Lance, searched exactly or by FAISS."""

from retroclip.memory.append import Added
from retroclip.memory.memory import Memory
from retroclip.memory.search import Hits

__all__ = ["Added", "Hits", "Memory"]
