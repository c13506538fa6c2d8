"""What a memory keeps of an image: its bytes, a thumbnail that remembers what it was made of, or nothing."""

import hashlib
import io
import re
from typing import Literal

from PIL import Image

from retroclip.errors import BadImageError
from retroclip.pairs import decode_image

Images = Literal["store", "thumbnail", "none"]

LONGEST_SIDE = 320
"""Pixels of a thumbnail's longer side: a 4:3 photo is 240 high then, enough for models that see 224 × 224."""
QUALITY = 85
_MARK = b"retroclip thumbnail of sha256:"
_MARKED = re.compile(re.escape(_MARK) + rb"(?P<sha256>[0-9a-f]{64})(, md5:(?P<md5>[0-9a-f]{32}))?")


def kept_image(data: bytes | None, images: Images, decoded: Image.Image | None = None) -> bytes | None:
    """The bytes to store of an encoded image; None for "none", and for an image that can't be reduced.

    decoded: the same image where it is decoded already. A JPEG that is small enough stays as it is, so that making a
    thumbnail of a thumbnail changes nothing.
    """
    if data is None or images == "none":
        return None
    if images == "store" or _is_small_jpeg(data):
        return data
    try:
        image = (decode_image(data) if decoded is None else decoded).copy()
    except BadImageError:
        return None
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    mark = _MARK + f"{hashlib.sha256(data).hexdigest()}, md5:{hashlib.md5(data).hexdigest()}".encode()
    image.save(buffer, "JPEG", quality=QUALITY, comment=mark)
    return buffer.getvalue()


def is_kept_of(stored: bytes, data: bytes | None) -> bool:
    """Whether `stored` is what a memory keeps of the encoded image `data`, as it is or as a thumbnail."""
    return data is not None and (stored == data or original_hash(stored) == hashlib.sha256(data).hexdigest())


def original_hash(stored: bytes, kind: str = "sha256") -> str:
    """The hash of the image that a stored one was made of: a thumbnail's original, else the image itself.

    kind: "sha256" or "md5", the two by which images are published.
    """
    known = _marked(stored, kind)
    return hashlib.new(kind, stored).hexdigest() if known is None else known


def hashes_of(stored: bytes, kind: str) -> set[str]:
    """The hash of a stored image and, where it is a thumbnail, that of the image it was made of, as `original_hash`."""
    known = _marked(stored, kind)
    return {hashlib.new(kind, stored).hexdigest()} | (set() if known is None else {known})


def _marked(stored: bytes, kind: str) -> str | None:
    """What a thumbnail's comment, which stands in the header, says of its original's hash."""
    found = _MARKED.search(stored, 0, 4096)
    known = found[kind] if found else None
    return None if known is None else known.decode()


def _is_small_jpeg(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return max(image.size) <= LONGEST_SIDE
    except Exception:  # not a JPEG, or one that is broken: decoding tells
        return False
