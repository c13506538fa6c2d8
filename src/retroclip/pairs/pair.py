"""What every reader yields: a pair of an image and its texts, or the reason why a row was rejected."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with whatever text belongs to it; the label-caption union of UniCL and iCAR.

    `image` is still encoded (JPEG, PNG, …), as found. `boxes` are `(label, x, y, w, h)` in pixels of the stored image,
    x and y at the top left corner; `mask` is a PNG of class indices. `labels` are those of an image that may have any
    number of them, none included; `label` is None there. `faults` tell of files beside the image that can't be used.

    >>> Pair("cat", b"the bytes of a file", captions=("a sleeping cat",)).caption
    'a sleeping cat'
    """

    key: str
    image: bytes | None
    captions: tuple[str, ...] = ()
    label: str | None = None
    source: str = ""
    license: str | None = None
    boxes: tuple[Any, ...] = ()
    mask: bytes | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    faults: tuple[str, ...] = ()

    @property
    def caption(self) -> str | None:
        """The first caption."""
        return self.captions[0] if self.captions else None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that can't be used, and why. Counted and listed; never stops a run by itself."""

    key: str
    source: str
    reason: str


def clean_text(text: str) -> str:
    """NFC form without surrounding white space; scripts, case and punctuation stay as they are."""
    return unicodedata.normalize("NFC", text).strip()


def printable(text: str) -> str:
    """Text in which bytes that aren't UTF-8 were kept as surrogates (file names), with a sign in their place."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def clean_captions(texts: Iterable[str | None]) -> tuple[str, ...]:
    """Every caption that says something, in order, each once."""
    cleaned = (clean_text(text) for text in texts if text is not None)
    return tuple(dict.fromkeys(text for text in cleaned if text))


def label_key(label: str) -> str:
    """The form in which labels are compared: upper and lower case, '_', '/' and ' ' are the same."""
    return " ".join(unicodedata.normalize("NFC", label).replace("_", " ").replace("/", " ").casefold().split())


def clean_label(value: Any) -> str | None:
    """A label as text, or None where there is none."""
    if value is None:
        return None
    return clean_text(str(value)) or None
