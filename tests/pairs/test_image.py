"""decode_image: every mode becomes upright RGB; whatever is not a sound image of bearable size is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from retroclip.errors import BadImageError
from retroclip.pairs import decode_image


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than its few bytes hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_rgb_is_untouched(make_image):
    image = make_image(1)
    assert np.array_equal(np.asarray(decode_image(encode(image))), np.asarray(image))


def test_bytes_path_and_image_give_the_same(make_image, tmp_path):
    data = encode(make_image(2))
    (tmp_path / "a.png").write_bytes(data)
    decoded = [decode_image(data), decode_image(tmp_path / "a.png"), decode_image(make_image(2))]
    assert all(np.array_equal(np.asarray(image), np.asarray(decoded[0])) for image in decoded)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb_of_about_the_same_grey(mode):
    grey = np.full((6, 9), 200, dtype=np.uint8)
    if mode in ("I;16", "I"):
        image, format = Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"
        image = image.convert("I") if mode == "I" else image
    elif mode == "F":
        image, format = Image.fromarray(grey.astype(np.float32) / 255), "TIFF"
    else:
        image, format = Image.fromarray(grey).convert("RGB").convert(mode), "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode_image(encode(image, format))
    assert decoded.mode == "RGB" and decoded.size == (9, 6)
    mean = np.asarray(decoded).mean()
    assert mean > 100 if mode == "1" else abs(mean - 200) <= 3


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    decoded = decode_image(encode(image))
    assert decoded.getpixel((0, 0)) == (255, 255, 255) and decoded.getpixel((3, 3)) == (255, 0, 0)


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 0, 0, 255] + [0] * 750)
    image.putpixel((1, 1), 1)
    decoded = decode_image(encode(image, transparency=0))
    assert decoded.getpixel((0, 0)) == (255, 255, 255) and decoded.getpixel((1, 1)) == (0, 0, 255)


def test_exif_orientation_is_applied(make_image):
    image = make_image(3, (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn right
    decoded = decode_image(encode(image, "PNG", exif=exif))
    assert decoded.size == (20, 40)
    assert np.array_equal(np.asarray(decoded), np.rot90(np.asarray(image), k=-1))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_truncated_images_are_refused(make_image, format):
    data = encode(make_image(4, (200, 160)), format)
    with pytest.raises(BadImageError):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"this is text, whatever its name says", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_image_is_refused(data, tmp_path):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(BadImageError) as error:
        decode_image(tmp_path / "a.jpg")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        decode_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest lifts the filter that image.py sets
def test_too_many_pixels_are_refused_before_decoding(size):
    with pytest.raises(BadImageError, match="pixel"):
        decode_image(huge_png(*size))


def test_the_limit_can_be_lowered(make_image):
    decode_image(make_image(0, (10, 10)), max_pixels=100)
    with pytest.raises(BadImageError, match="10 x 10"):
        decode_image(make_image(0, (10, 10)), max_pixels=99)
