"""`retroclip memory ...`"""

from retroclip.cli.memory import asking, changing, filling, searching  # noqa: F401  (each registers its verbs)
from retroclip.cli.memory.app import app

__all__ = ["app"]
