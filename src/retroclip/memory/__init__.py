"""A memory of image-text pairs with both embeddings: stored by Lance, searched exactly or by FAISS."""

from retroclip.memory.append import Added, Keeping
from retroclip.memory.blocklist import Blocklist
from retroclip.memory.estimate import estimated
from retroclip.memory.ingest import Ingest
from retroclip.memory.location import absolute
from retroclip.memory.memory import Memory
from retroclip.memory.search import Hits

__all__ = ["Added", "Blocklist", "Hits", "Ingest", "Keeping", "Memory", "absolute", "estimated"]
