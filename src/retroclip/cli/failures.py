"""From an exception to the one line that the user reads."""

import errno
import logging
import os
import warnings
from collections.abc import Iterator

from retroclip.errors import RetroclipError

DEBUG_VARIABLE = "RETROCLIP_DEBUG"
NOISY = ("transformers", "huggingface_hub", "open_clip", "timm", "accelerate", "matplotlib", "root")
FULL = ("No space left on device", "os error 28", "Disk quota exceeded")


class WrongUsageError(Exception):
    """What the user typed can't be meant: one line, exit status 2."""


def explain(error: BaseException) -> str:
    """One line for whatever ended a verb: what happened, and what to do about it."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again: what was finished is not done twice"
    if isinstance(error, RetroclipError):
        return one_line(error)
    if any(is_full_disk(cause) for cause in causes(error)):
        return "the disk is full; free some space and run the same command again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or one_line(error)}"
    if isinstance(error, MemoryError):
        return "out of memory; take a smaller --batch-size or fewer pairs"
    advice = f"this may be a bug: repeat it with `retroclip --debug ...` ({DEBUG_VARIABLE}=1) to see where"
    return f"{type(error).__name__}: {one_line(error)} [{advice}]"


def one_line(error: BaseException) -> str:
    """The message without line breaks, cut where a library put a whole page into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else text[:600] + " …"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_full_disk(error: BaseException) -> bool:
    """Whether an error means a full disk; Rust and C++ libraries tell it only in the message."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(phrase in str(error) for phrase in FULL)


def silence_libraries() -> None:
    """Keep warnings and progress bars of the libraries beneath from the user, who can do nothing about them."""
    warnings.filterwarnings("ignore")
    for name in NOISY:
        logging.getLogger(None if name == "root" else name).setLevel(logging.ERROR)
    logging.getLogger("retroclip.pairs").setLevel(logging.WARNING)  # what isn't read of a source is for the user
    for variable, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(variable, value)
