"""Memories filled from sources with gaps and faults, interrupted, and on a full disk."""

import json
import struct
import zlib

from retroclip.memory import Memory


def test_captions_absent_or_in_several_scripts(run, model, photos):
    for number, text in enumerate(["Кошка на столе", "一只猫", "قطة على الطاولة", ""]):
        (photos / f"{number:02}.txt").write_text(text, encoding="utf-8")
    for number in range(4, 12):
        (photos / f"{number:02}.txt").unlink()
    assert run(f"memory create mem photos --model {model}").status == 0
    info = json.loads(run("memory info mem --json").out)
    assert (info["rows"], info["with_text"]) == (20, 11)
    assert json.loads(run("memory search mem --text 一只猫 --by text -k 1 --json").out)[0]["caption"] == "一只猫"
    assert len(json.loads(run("memory search mem --text cat -k 20 --json").out)) == 20


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A valid PNG of one bit a pixel, small on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"\0" * (1 + width // 8) * 100
    pixels = b"".join(packer.compress(rows) for _ in range(height // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_bad_images_are_counted_and_named(run, model, photos):
    whole = (photos / "00.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.jpg").write_text("not a picture")
    (photos / "huge.png").write_bytes(huge_png())
    (photos / "00.txt").write_text("")
    made = run(f"memory create mem photos --model {model} --max-rejected 0.2")
    assert made.status == 0
    assert "20 pairs, 4 rejected, 1 of them captions whose images are kept" in made.err
    reasons = {item.key: item.reason for item in Memory.open("mem").rejected()}
    assert reasons.keys() == {"truncated", "text", "huge", "00"}
    assert made.err.splitlines()[1:] == [f"  {key}: {reason}" for key, reason in reasons.items()]
    listed = json.loads(run("memory info mem --rejected --json").out)
    assert [(row["key"], row["reason"]) for row in listed] == list(reasons.items())
    assert "truncated" in run("memory info mem --rejected").out
    assert reasons["00"] == ".txt is empty; the image is kept without it"
    assert json.loads(run("memory info mem --json").out)["rejected"] == 4
    assert "truncated" in reasons["truncated"]
    assert "not an image" in reasons["text"]
    assert "pixel" in reasons["huge"]
    (photos / "cut.jpg").write_bytes(whole[:200])
    counted, named = run("memory add mem photos --max-rejected 0.2").err.splitlines()
    assert "0 pairs added, 20 were there, 1 rejected, 3 had been rejected before" in counted
    assert named.startswith("  cut: ")


def test_captions_that_cannot_be_read_are_counted_and_those_that_are_not_there_are_not(run, model, photos, memory):
    for number in range(10):
        (photos / f"{number:02}.txt").write_bytes(b"" if number < 6 else b"\xff\xfe\x00")
    for number in range(10, 14):
        (photos / f"{number:02}.txt").unlink()
    made = run(f"memory create other photos --model {model}")  # more than a tenth, but no image of them is bad
    assert "20 pairs, 10 rejected, 10 of them captions whose images are kept" in made.err
    assert made.err.splitlines()[-1] == "  … and 5 more: `retroclip memory info other --rejected` lists all"
    assert len(made.err.splitlines()) == 7
    (photos / "00.jpg").rename(photos / "new.jpg")
    (photos / "00.txt").rename(photos / "new.txt")
    counted, named = run("memory add mem photos").err.splitlines()
    assert "1 pairs added, 19 were there, 1 rejected, 1 of them captions" in counted
    assert named.startswith("  new: ")


def test_too_many_bad_images_stop_at_once_and_leave_nothing(run, model, photos):
    for number in range(10):
        (photos / f"bad{number}.jpg").write_text("not a picture")
    stopped = run(f"memory create mem photos --model {model}")
    assert stopped.status == 1
    assert "10 of the first 30 pairs are bad" in stopped.line
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos"]


def test_interrupted_creation_goes_on(run, model, photos, monkeypatch):
    from retroclip.encoders import Encoder

    calls = []
    encode = Encoder.encode_images

    def interrupted(self, images, **options):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_images", interrupted)
        stopped = run(f"memory create mem photos --model {model} --batch-size 4")
    assert stopped.status == 1
    assert "interrupted" in stopped.line
    assert not (photos.parent / "mem").exists()
    assert run(f"memory create mem photos --model {model} --batch-size 4").status == 0
    assert len(Memory.open("mem")) == 20


def test_a_full_disk(run, model, photos, monkeypatch):
    import errno

    from retroclip.memory.store import Store

    def full(self, table):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    failed = run(f"memory create mem photos --model {model}")
    assert failed.status == 1
    assert "full" in failed.line
    assert "free some space" in failed.line
    assert not (photos.parent / "mem").exists()
