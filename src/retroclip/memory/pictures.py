"""What a memory keeps of an image: its bytes, a thumbnail that remembers what it was made of, or nothing."""

import hashlib
import io
from typing import Literal

from PIL import Image

from retroclip.errors import BadImageError
from retroclip.pairs import decode_image

Images = Literal["store", "thumbnail", "none"]

LONGEST_SIDE = 320
"""Pixels of a thumbnail's longer side: a 4:3 photo is 240 high then, enough for models that see 224 × 224."""
QUALITY = 85
_MARK = b"retroclip thumbnail of sha256:"


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
    mark = _MARK + hashlib.sha256(data).hexdigest().encode()
    image.save(buffer, "JPEG", quality=QUALITY, comment=mark)
    return buffer.getvalue()


def is_kept_of(stored: bytes, data: bytes | None) -> bool:
    """Whether `stored` is what a memory keeps of the encoded image `data`, as it is or as a thumbnail."""
    return data is not None and (stored == data or original_sha256(stored) == hashlib.sha256(data).hexdigest())


def original_sha256(stored: bytes) -> str:
    """The hash of the image that a stored one was made of: a thumbnail's original, else the image itself."""
    place = stored.find(_MARK, 0, 4096)  # the comment stands in the header
    if place < 0:
        return hashlib.sha256(stored).hexdigest()
    return stored[place + len(_MARK) : place + len(_MARK) + 64].decode("ascii", "replace")


def _is_small_jpeg(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return max(image.size) <= LONGEST_SIDE
    except Exception:  # not a JPEG, or one that is broken: decoding tells
        return False
