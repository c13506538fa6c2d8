"""Creation: what is stored, what is left out, and that an interruption changes nothing."""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pytest
import torch

from retroclip.errors import MemoryStoreError, SourceError
from retroclip.memory import Memory
from retroclip.memory.lock import writer_lock
from retroclip.pairs import Pair

SCRIPT = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("memory_stub", sys.argv[1])
stub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stub)
from retroclip.memory import Memory

class Slow(stub.StubEncoder):
    def encode_images(self, images, **options):
        time.sleep(0.2)
        return super().encode_images(images, **options)

Memory.create(sys.argv[2], Slow(), [sys.argv[3]], batch_size=8, shard_pairs=16)
"""


def contents(memory: Memory) -> dict:
    rows = memory.take(memory.ids()).to_pydict()
    rows["ids"] = memory.ids().tolist()
    rows["image_embedding"] = memory.embeddings(of="image").tolist()
    rows["text_embedding"] = memory.embeddings(of="text").tolist()
    rows["rejected"] = memory.rejected()
    return rows


@pytest.fixture
def folder(tmp_path, stub) -> Path:
    """80 pictures, every fourth with a text, number 20 broken."""
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(80):
        (root / f"{i:03}.png").write_bytes(stub.photo(i) if i != 20 else stub.photo(i)[:60])
        if i % 4 == 0:
            (root / f"{i:03}.txt").write_text(f"photo {i}")
    return root


def test_rows_are_the_pairs_in_order(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, [pairs], shard_pairs=25, batch_size=7)
    rows = memory.take(memory.ids()).to_pydict()
    assert rows["key"] == [pair.key for pair in pairs]
    assert rows["image"] == [pair.image for pair in pairs]
    assert rows["caption"] == [pair.caption for pair in pairs]
    assert rows["captions"] == [list(pair.captions) for pair in pairs]
    assert rows["label"] == [pair.label for pair in pairs]
    assert set(rows["license"]) == {"CC0"}
    assert [json.loads(own) for own in rows["metadata"]] == [pair.metadata for pair in pairs]
    assert not (tmp_path / "m.partial").exists()
    assert memory.verify() == []


def test_embeddings_are_the_encoders_to_a_thousandth(tmp_path, encoder, pairs, stub):
    memory = Memory.create(tmp_path / "m", encoder, [pairs], shard_pairs=25)
    from retroclip.pairs import decode_image

    images = encoder.encode_images(torch.stack([encoder.preprocess(decode_image(pair.image)) for pair in pairs]))
    assert torch.allclose(memory.embeddings(), images, atol=5e-4)
    assert torch.allclose(memory.embeddings() @ images.T, images @ images.T, atol=1e-3)
    texts = memory.embeddings(of="text")
    for i, pair in enumerate(pairs):
        if pair.captions:
            mean = encoder.encode_texts(pair.captions).mean(0)
            assert torch.allclose(texts[i], mean / mean.norm(), atol=5e-4)
        else:
            assert texts[i].norm() == 0
    assert memory.has_text().tolist() == [bool(pair.captions) for pair in pairs]
    assert memory.has_text([2, 0, 1]).tolist() == [bool(pairs[i].captions) for i in (2, 0, 1)]


def test_bad_pairs_are_named_and_skipped(tmp_path, encoder, pairs):
    bad = [Pair("text.jpg", b"hello"), Pair("none", None), replace(pairs[0], key="cut", image=pairs[0].image[:70])]
    blank = replace(pairs[1], key="blank", captions=("", "  "))
    told = []
    source = [*pairs, *bad, blank, pairs[5]]
    memory = Memory.create(
        tmp_path / "m", encoder, source, batch_size=8, on_batch=lambda read, bad: told.append((read, bad))
    )
    assert len(memory) == len(pairs) + 1
    assert [item.key for item in memory.rejected()] == ["text.jpg", "none", "cut", "blank"]
    assert "no image" in memory.rejected()[1].reason
    assert "kept without" in memory.rejected()[3].reason
    assert not memory.has_text()[-1]
    assert told[-1] == (len(source), 3)
    assert memory.info()["duplicates"] == 1


def test_embeddings_that_are_not_finite_are_rejected(tmp_path, pairs, stub):
    class Broken(stub.StubEncoder):
        def encode_texts(self, texts, **options):
            rows = super().encode_texts(texts)
            rows[[text == "photo number 7" for text in texts]] = torch.nan
            return rows

    memory = Memory.create(tmp_path / "m", Broken(), [pairs])
    assert [item.key for item in memory.rejected()] == ["p007"]
    assert "p007" not in memory.take(memory.ids(), ["key"])["key"].to_pylist()


def test_a_first_shard_mostly_bad_stops_and_leaves_nothing(tmp_path, encoder, pairs):
    bad = [Pair(f"b{i}", b"nothing") for i in range(10)]
    with pytest.raises(SourceError, match="10 of the first 30 pairs are bad, more than the 10% allowed: b0: "):
        Memory.create(tmp_path / "m", encoder, [bad, pairs[:20]])
    assert list(tmp_path.iterdir()) == []
    assert len(Memory.create(tmp_path / "m", encoder, [bad, pairs[:20]], max_rejected=0.5)) == 20


def test_bad_pairs_after_the_first_shard_do_not_stop(tmp_path, encoder, pairs):
    bad = [Pair(f"b{i}", b"nothing") for i in range(10)]
    memory = Memory.create(tmp_path / "m", encoder, [pairs[:20], bad], shard_pairs=20)
    assert len(memory) == 20
    assert len(memory.rejected()) == 10


@pytest.mark.parametrize("sources", [[], [[]]])
def test_nothing_to_read_is_an_error(tmp_path, encoder, sources):
    with pytest.raises(SourceError, match="no images found"):
        Memory.create(tmp_path / "m", encoder, sources)
    assert list(tmp_path.iterdir()) == []


def test_labels_become_captions_only_on_request(tmp_path, encoder, stub):
    pairs = [Pair("a", stub.photo(1), label="sea_horse"), Pair("b", stub.photo(2), ("own words",), label="sea_horse")]
    assert not Memory.create(tmp_path / "plain", encoder, pairs).has_text()[0]
    memory = Memory.create(tmp_path / "m", encoder, pairs, labels_as_captions=True)
    assert memory.take([0, 1], ["caption"])["caption"].to_pylist() == ["a photo of a sea horse.", "own words"]


def test_without_images(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs, images="none")
    assert memory.take([0], ["image"])["image"].to_pylist() == [None]
    assert memory.info()["with_image"] == 0


def test_a_taken_name_is_refused(tmp_path, encoder, pairs):
    Memory.create(tmp_path / "m", encoder, pairs)
    with pytest.raises(MemoryStoreError, match="exists already: add to it"):
        Memory.create(tmp_path / "m", encoder, pairs)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("!")
    with pytest.raises(MemoryStoreError, match="choose another name"):
        Memory.create(tmp_path / "other", encoder, pairs)


class Interrupt:
    """Raises after so many batches."""

    def __init__(self, batches: int, error: BaseException) -> None:
        self.left, self.error = batches, error

    def __call__(self, read: int, rejected: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error


def test_ctrl_c_and_repeat_equals_undisturbed(tmp_path, encoder, folder):
    options = {"shard_pairs": 16, "batch_size": 8}
    whole = Memory.create(tmp_path / "whole", encoder, [folder], **options)
    for batches in (1, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            Memory.create(
                tmp_path / "m", encoder, [folder], on_batch=Interrupt(batches, KeyboardInterrupt()), **options
            )
        assert not (tmp_path / "m").exists()
    with pytest.raises(MemoryStoreError, match="is not finished: run the same"):
        Memory.open(tmp_path / "m")
    memory = Memory.create(tmp_path / "m", encoder, [folder], **options)
    assert contents(memory) == contents(whole)
    assert len(memory) == 79
    assert memory.manifest.counts == whole.manifest.counts
    assert memory.verify() == []


def test_killed_and_repeated_equals_undisturbed(tmp_path, encoder, folder):
    stub_file = Path(sys.modules["memory_stub"].__file__)
    command = [sys.executable, "-c", SCRIPT, str(stub_file), str(tmp_path / "m"), str(folder)]
    source = str(Path(importlib.util.find_spec("retroclip").origin).parents[1])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"})
    data = tmp_path / "m.partial" / "pairs.lance" / "data"
    deadline = time.monotonic() + 300
    while process.poll() is None and len(list(data.glob("*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(MemoryStoreError, match=f"being written by process {process.pid}"):
        Memory.create(tmp_path / "m", encoder, [folder], batch_size=8, shard_pairs=16)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "m").exists()
    committed = lance.dataset(str(tmp_path / "m.partial" / "pairs.lance")).count_rows()
    assert 0 < committed < 79
    memory = Memory.create(tmp_path / "m", encoder, [folder], batch_size=8, shard_pairs=16)
    whole = Memory.create(tmp_path / "whole", encoder, [folder], batch_size=8, shard_pairs=16)
    assert contents(memory) == contents(whole)


def test_going_on_with_other_arguments_is_refused(tmp_path, encoder, folder, stub):
    with pytest.raises(KeyboardInterrupt):
        Memory.create(
            tmp_path / "m", encoder, [folder], shard_pairs=16, on_batch=Interrupt(3, KeyboardInterrupt()), batch_size=8
        )
    with pytest.raises(MemoryStoreError, match="another model"):
        Memory.create(tmp_path / "m", stub.StubEncoder(seed=1), [folder], shard_pairs=16)
    with pytest.raises(MemoryStoreError, match="another labels_as_captions"):
        Memory.create(tmp_path / "m", encoder, [folder], shard_pairs=16, labels_as_captions=True)


def test_a_full_disk_is_one_line(tmp_path, encoder, folder, monkeypatch):
    write, calls = lance.write_dataset, []

    def failing(data, *arguments, **options):
        calls.append(len(data))
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(data, *arguments, **options)

    monkeypatch.setattr(lance, "write_dataset", failing)
    with pytest.raises(MemoryStoreError, match=r"is full: free some space and run the same command again"):
        Memory.create(tmp_path / "m", encoder, [folder], shard_pairs=16)
    assert not (tmp_path / "m").exists()
    monkeypatch.undo()
    assert len(Memory.create(tmp_path / "m", encoder, [folder], shard_pairs=16)) == 79


def test_one_writer_at_a_time(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs[:20])
    with writer_lock(tmp_path / "m"):
        for write in (
            lambda: memory.delete("label = 'odd'"),
            lambda: memory.add(pairs, encoder),
            lambda: memory.index("flat"),
        ):
            with pytest.raises(MemoryStoreError, match=f"being written by process {os.getpid()}"):
                write()
    (tmp_path / "m" / "writer.lock").write_text("999999999\n")  # as a killed writer leaves it
    assert memory.add(pairs, encoder).rows == 40


def test_adding_skips_known_keys(tmp_path, encoder, pairs):
    memory = Memory.create(tmp_path / "m", encoder, pairs[:20])
    added = memory.add([pairs[10:], [Pair("bad", b"")]], encoder)
    assert (added.read, added.rows, added.duplicates, added.rejected) == (51, 40, 10, 1)
    assert len(memory) == 60
    assert np.array_equal(memory.ids(), np.arange(60))
    assert memory.add(pairs, encoder).rows == 0
