"""What retroclip raises when the user can do something about it: one clear line, exit status 1."""


class RetroclipError(Exception):
    """A failure that its message explains in one line and says how to mend; the command line prints just that.

    >>> load("nonesuch")
    Traceback (most recent call last):
    retroclip.errors.ModelError: no model called 'nonesuch', nor a directory of that name: `retroclip models` lists them
    """


class BadImageError(RetroclipError):
    """An image that can't be decoded, or that is larger than the pixel limit. Counted and skipped in bulk work."""


class SourceError(RetroclipError):
    """A source of pairs that is missing, empty, unreadable, or mostly bad."""


class ModelError(RetroclipError):
    """A model reference that names nothing, or weights that don't fit."""


class MemoryStoreError(RetroclipError):
    """A memory that is missing, broken, in use, or made by another model."""


class DivergedError(RetroclipError, FloatingPointError):
    """A training whose loss is no number any more."""


class TaskError(RetroclipError):
    """A task that names nothing, or that has no classes."""
