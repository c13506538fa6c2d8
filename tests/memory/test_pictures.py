"""What is kept of an image, and that a pair is known again whatever was kept."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from retroclip.errors import MemoryStoreError
from retroclip.memory import Blocklist, Memory
from retroclip.memory.manifest import Manifest
from retroclip.memory.pictures import LONGEST_SIDE, is_kept_of, kept_image, original_hash
from retroclip.memory.store import Store
from retroclip.pairs import Pair


def large(seed: int, kind: str = "PNG", size: tuple[int, int] = (640, 400)) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photos():
    return [Pair(f"p{i}", large(i, ("PNG", "JPEG")[i % 2]), (f"photo {i}",), source="album") for i in range(10)]


def test_a_thumbnail_is_a_small_jpeg_that_knows_its_original():
    data = large(0)
    small = kept_image(data, "thumbnail")
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("JPEG", (LONGEST_SIDE, 200))
    assert len(small) < len(data)
    assert kept_image(small, "thumbnail") == small
    for kind in ("sha256", "md5"):
        assert original_hash(small, kind) == original_hash(data, kind) == hashlib.new(kind, data).hexdigest()
    assert is_kept_of(small, data)
    assert is_kept_of(data, data)
    assert not is_kept_of(small, large(1))
    assert not is_kept_of(small, None)
    assert kept_image(data, "store") == data
    assert kept_image(data, "none") is None
    assert kept_image(b"no image", "thumbnail") is None


@pytest.mark.parametrize("images", ["store", "thumbnail", "none"])
def test_the_choice_changes_images_and_nothing_else(tmp_path, encoder, photos, images):
    whole = Memory.create(tmp_path / "whole", encoder, photos)
    memory = Memory.create(tmp_path / "m", encoder, photos, images=images)
    assert memory.embeddings().equal(whole.embeddings())
    rows = memory.take(memory.ids()).to_pydict()
    kept = rows.pop("image")
    assert kept == [kept_image(pair.image, images) for pair in photos]
    expected = whole.take(whole.ids()).to_pydict()
    del expected["image"]
    assert rows == expected
    assert memory.info()["with_image"] == (0 if images == "none" else 10)
    assert memory.add(photos, encoder).duplicates == 10
    other = replace(photos[0], image=large(77), source="another album")
    assert memory.add([other], encoder).rows == 1
    assert memory.add([other], encoder).rows == 0
    assert memory.verify() == []


def test_what_is_added_may_be_kept_in_another_way(tmp_path, encoder, photos):
    memory = Memory.create(tmp_path / "m", encoder, photos[:4], images="thumbnail")
    memory.add(photos[:6], encoder, images="store")
    memory.add(photos, encoder, images="none")
    kept = memory.take(memory.ids(), ["image"])["image"].to_pylist()
    assert kept[:4] == [kept_image(pair.image, "thumbnail") for pair in photos[:4]]
    assert kept[4:6] == [pair.image for pair in photos[4:6]]
    assert kept[6:] == [None] * 4
    assert memory.info()["with_image"] == 6
    assert memory.add(photos, encoder).rows == 0
    with pytest.raises(MemoryStoreError, match="images is 'small': choose one of store, thumbnail, none"):
        memory.add(photos, encoder, images="small")


def test_images_of_many_rows_are_counted_on_a_spread_of_them(tmp_path, encoder, photos, monkeypatch):
    memory = Memory.create(tmp_path / "m", encoder, photos[:5], images="none")
    memory.add(photos, encoder, images="store")
    monkeypatch.setattr("retroclip.memory.describe.SAMPLED", 4)
    assert memory.info()["with_image"] == 5
    memory.delete("image IS NULL")
    assert memory.info()["with_image"] == 5
    memory.delete("image IS NOT NULL")
    assert memory.info()["with_image"] == 0


def test_few_images_are_held_while_they_are_counted(tmp_path, encoder, photos, monkeypatch):
    memory, taken, take = Memory.create(tmp_path / "m", encoder, photos), [], Store.take
    monkeypatch.setattr(Store, "take", lambda store, ids, columns: taken.append(len(ids)) or take(store, ids, columns))
    monkeypatch.setattr("retroclip.memory.describe.AT_A_TIME", 4)
    assert memory.info()["with_image"] == len(photos) == sum(taken) and max(taken) == 4


def test_shards_end_where_they_did_when_thumbnails_were_committed(tmp_path, encoder, photos, monkeypatch):
    monkeypatch.setattr("retroclip.memory.ingest.SHARD_BYTES", 3 * len(photos[0].image))

    def stop(read, rejected):
        if read >= 4:
            raise KeyboardInterrupt

    whole = Memory.create(tmp_path / "whole", encoder, photos, images="thumbnail", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        Memory.create(tmp_path / "m", encoder, photos, images="thumbnail", batch_size=2, on_batch=stop)
    memory = Memory.create(tmp_path / "m", encoder, photos, images="thumbnail", batch_size=2)
    assert memory.take(memory.ids()).equals(whole.take(whole.ids()))
    assert memory._store.files() == whole._store.files() > 1


def blocklist_of(kind, image):
    return Blocklist({kind: frozenset([hashlib.new(kind, image).hexdigest()])})


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_thumbnail_is_blocked_by_its_originals_hash(tmp_path, encoder, photos, kind):
    memory = Memory.create(tmp_path / "m", encoder, photos, images="thumbnail")
    blocklist = blocklist_of(kind, photos[3].image)
    rows = memory.take(memory.ids(), ["key", "image", "source", "metadata"])
    assert np.flatnonzero(blocklist.blocked_rows(rows)).tolist() == [3]


def test_thumbnails_of_imported_rows(tmp_path, encoder, photos):
    Memory.create(tmp_path / "m", encoder, photos).export(tmp_path / "out", "clip-retrieval")
    memory = Memory.create(tmp_path / "again", encoder, tmp_path / "out", images="thumbnail")
    kept = memory.take(memory.ids(), ["image"])["image"].to_pylist()
    assert kept == [kept_image(pair.image, "thumbnail") for pair in photos]


@pytest.mark.parametrize("images", ["store", "thumbnail", "none"])
def test_imported_rows_are_blocked_by_the_image_that_came_with_them(tmp_path, encoder, photos, images):
    Memory.create(tmp_path / "m", encoder, photos).export(tmp_path / "out", "clip-retrieval")
    blocklist = blocklist_of("md5", photos[3].image)
    memory = Memory.create(tmp_path / "again", encoder, tmp_path / "out", images=images, blocklist=blocklist)
    rows = memory.take(memory.ids(), ["key", "image"]).to_pydict()
    left = [pair for pair in photos if pair is not photos[3]]
    assert rows["key"] == [pair.key for pair in left]
    assert rows["image"] == [kept_image(pair.image, images) for pair in left]
    assert [item.key for item in memory.rejected()] == [photos[3].key]


def test_thumbnails_migrate_as_they_are(tmp_path, encoder, photos, stub):
    memory = Memory.create(tmp_path / "m", encoder, photos, images="thumbnail")
    before = memory.take(memory.ids())
    memory.migrate(stub.StubEncoder(dim=8, seed=3, name="other"))
    assert memory.take(memory.ids()).equals(before)


@pytest.mark.parametrize("created", ["thumbnail", "none"])
def test_a_migration_reduces_no_image_that_was_added_whole(tmp_path, encoder, photos, stub, created):
    memory = Memory.create(tmp_path / "m", encoder, photos[:4], images=created)
    memory.add(photos, encoder, images="store")
    if created == "none":
        memory.delete("image IS NULL")
    before = memory.take(memory.ids())
    memory.migrate(stub.StubEncoder(dim=8, seed=3, name="other"))
    assert memory.take(memory.ids()).equals(before)
    assert memory.manifest.creation["images"] == created


def test_a_memory_from_before_there_were_thumbnails(tmp_path, encoder, photos):
    memory = Memory.create(tmp_path / "m", encoder, photos)
    for old, new in ((True, "store"), (False, "none")):
        memory.manifest.creation = {**memory.manifest.creation, "store_images": old}
        memory.manifest.creation.pop("images", None)
        memory.manifest.save(memory.path)
        assert Manifest.load(memory.path).creation["images"] == new
