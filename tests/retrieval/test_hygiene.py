"""Near copies, mismatched and blocked pairs of a memory, against loops over all of them."""

import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from retroclip.errors import MemoryStoreError
from retroclip.evaluation.cleaning import clean_memory
from retroclip.memory import Blocklist, Memory
from retroclip.pairs import Pair, decode_image
from retroclip.retrieval.filters import distinct
from retroclip.retrieval.hygiene import blocked, mismatched, near_copies


@pytest.fixture(scope="module")
def stub():
    path = Path(__file__).parents[1] / "memory" / "stub.py"
    spec = importlib.util.spec_from_file_location("hygiene_stub", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(image: bytes, change) -> bytes:
    buffer = io.BytesIO()
    change(Image.open(io.BytesIO(image))).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def memory(tmp_path, stub):
    """Forty photos, then a copy, a resized and a mirrored copy of some, and photos alike only for the model."""
    photos = [stub.photo(i) for i in range(40)]
    copies = [photos[3], changed(photos[5], lambda image: image.resize((16, 16), Image.Resampling.NEAREST)), photos[3]]
    pairs = [
        Pair(f"p{i:02}", image, (("red", "green", "blue")[i % 3],), source="made", metadata={"url": f"http://x/{i}"})
        for i, image in enumerate([*photos, *copies])
    ]
    return Memory.create(tmp_path / "m", stub.StubEncoder(), pairs)


def keys(memory, ids):
    return memory.take(ids, ["key"])["key"].to_pylist()


def test_copies_are_found_and_the_first_stays(memory):
    assert keys(memory, near_copies(memory, 0.99)) == ["p40", "p41", "p42"]


def test_without_pictures_the_cosine_decides_alone(tmp_path, stub):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 16))
    rows = torch.nn.functional.normalize(
        torch.tensor(centres[rng.integers(0, 12, 300)] + 0.05 * rng.standard_normal((300, 16))), dim=1
    )
    folder = tmp_path / "embeddings" / "img_emb"
    folder.mkdir(parents=True)
    np.save(folder / "img_emb_0.npy", rows.numpy().astype(np.float32))
    memory = Memory.create(tmp_path / "n", stub.StubEncoder(), folder.parent)
    expected = memory.ids()[~distinct(memory.embeddings(), 0.97).numpy()]
    assert 100 < len(expected) < 300
    assert near_copies(memory, 0.97).tolist() == expected.tolist()


def test_copies_of_evaluation_images(tmp_path, memory, stub):
    (tmp_path / "val").mkdir()
    image = changed(stub.photo(7), lambda picture: picture)
    (tmp_path / "val" / "a.png").write_bytes(image)
    (tmp_path / "val" / "b.png").write_bytes(changed(stub.photo(500), ImageOps.mirror))
    told = clean_memory(memory, near_to=[str(tmp_path / "val")], encoder=stub.StubEncoder(), dry_run=True)
    assert told["unwanted"] >= 1
    clean_memory(memory, near_to=[str(tmp_path / "val")], encoder=stub.StubEncoder())
    assert memory.matching("key = 'p07'").tolist() == []
    assert len(memory) == 43 - told["unwanted"]


def test_a_broken_evaluation_image_stops_no_cleaning(tmp_path, memory, stub, monkeypatch):
    encode = stub.StubEncoder.encode_images

    def strict(self, images, **options):
        return encode(self, [image for image in images if decode_image(image)], **options)

    monkeypatch.setattr(stub.StubEncoder, "encode_images", strict)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "broken.png").write_bytes(b"no image")
    (tmp_path / "val" / "copy.png").write_bytes(stub.photo(7))
    clean_memory(memory, near_to=[str(tmp_path / "val")], encoder=stub.StubEncoder())
    assert memory.matching("key = 'p07'").tolist() == []


def test_mismatched_pairs(memory):
    scores = (memory.embeddings() * memory.embeddings(of="text")).sum(1)
    assert mismatched(memory, 0.1).tolist() == memory.ids()[(scores < 0.1).numpy()].tolist()
    assert 1 <= len(mismatched(memory, "quantile")) <= 5


def test_a_blocklist_is_applied_and_kept(tmp_path, memory, stub):
    image = stub.photo(9)
    lines = [f"sha256:{hashlib.sha256(image).hexdigest()}", hashlib.md5(stub.photo(10)).hexdigest().upper()]
    (tmp_path / "block.txt").write_text("# opt-outs\n" + "\n".join([*lines, "url:http://x/11", "key:p12"]) + "\n\n")
    blocklist = Blocklist.read(tmp_path / "block.txt")
    assert clean_memory(memory, blocklist=blocklist, purge=True) == {"blocked": 4, "deleted": 4}
    gone = [Pair("other", image), Pair("p12", stub.photo(12)), Pair("fine", stub.photo(600))]
    added = memory.add(gone, stub.StubEncoder())
    assert (added.rows, added.rejected) == (1, 2)
    assert {item.reason for item in memory.rejected()} == {"on the blocklist"}
    memory.export(tmp_path / "out", "clip-retrieval")
    again = Memory.create(tmp_path / "again", stub.StubEncoder(), tmp_path / "out", blocklist=Blocklist.read(
        tmp_path / "m" / "blocklist.txt") | Blocklist({"key": frozenset(["p13"])}))  # fmt: skip
    assert len(again) == len(memory) - 1
    assert again.rejected()[0].key == "p13"


def test_a_blocklist_without_hashes_reads_no_image(memory, monkeypatch):
    read = []
    take = type(memory).take
    monkeypatch.setattr(
        type(memory), "take", lambda self, ids, columns: read.append(columns) or take(self, ids, columns)
    )
    assert len(blocked(memory, Blocklist({"key": frozenset(["p12"]), "url": frozenset(["http://x/11"])}))) == 2
    assert len(blocked(memory, Blocklist({"md5": frozenset(["0" * 32])}))) == 0
    assert [("image" in columns) for columns in read] == [False, True]


@pytest.mark.parametrize("line", ["nonsense", "sha256:12", "md5:" + "g" * 32, "url:"])
def test_lines_that_are_no_entries(tmp_path, line):
    (tmp_path / "block.txt").write_text(f"key:a\n{line}\n")
    with pytest.raises(MemoryStoreError, match="line 2"):
        Blocklist.read(tmp_path / "block.txt")
    with pytest.raises(MemoryStoreError, match="can't be read"):
        Blocklist.read(tmp_path / "nosuch")
