"""A memory on object storage does what a local one does; tried on a local server that speaks S3."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from retroclip.errors import MemoryStoreError
from retroclip.memory import Memory, lease
from retroclip.memory.location import Url, located
from retroclip.memory.lock import writer_lock
from retroclip.memory.manifest import UNFINISHED_NAME

moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The URL of an empty bucket, with credentials and endpoint in the environment."""
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": host,
        "RETROCLIP_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="module")
def both(bucket, tmp_path_factory, encoder, pairs):
    """The same memory on object storage and in a folder, after the same changes."""
    made = []
    for place in (f"{bucket}/deep/mem", tmp_path_factory.mktemp("local") / "mem"):
        memory = Memory.create(place, encoder, pairs[:40], shard_pairs=16)
        memory.add(pairs, encoder)
        memory.add(pairs[5:8], encoder, known="replace")
        memory.delete("label = 'odd' AND key > 'p020'")
        made.append(memory)
    return made


def contents(memory):
    vectors = [memory.embeddings(of=of).tolist() for of in ("image", "text")]
    return memory.ids().tolist(), memory.take(memory.ids()).to_pylist(), vectors, memory.rejected()


def found(memory, where=None):
    hits = memory.search(np.random.default_rng(0).standard_normal((5, 16)), k=7, where=where)
    return hits.ids.tolist(), hits.scores.tolist()


def test_it_does_what_a_local_one_does(both):
    remote, local = both
    assert contents(remote) == contents(local)
    assert found(remote) == found(local)
    assert found(remote, "label IS NULL") == found(local, "label IS NULL")
    opened = Memory.open(str(remote.path))
    assert contents(opened) == contents(local)
    assert opened.verify() == []
    assert opened.info()["rows"] == len(local)
    assert opened.info()["size_bytes"] > 0
    assert not any(name.startswith((lease.FOLDER, UNFINISHED_NAME)) for name in remote.path.names())


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_its_indexes_are_kept_there_and_copied_here(both, kind, tmp_path, monkeypatch):
    remote, local = both
    remote.index(kind)
    local.index(kind)
    assert found(remote) == found(local)
    monkeypatch.setenv("RETROCLIP_CACHE", str(tmp_path / "cache"))
    elsewhere = Memory.open(str(remote.path))
    assert elsewhere.info()["index"]["kind"] == kind
    assert found(elsewhere) == found(local)
    copies = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert copies
    for path in copies:
        path.write_bytes(b"damaged")
    again = Memory.open(str(remote.path))
    assert found(again) == found(local)
    assert again.verify() == []
    (name,) = [name for name in (remote.path / "index").names() if "image" in name and "rows" not in name]
    (remote.path / "index" / name).unlink()
    monkeypatch.setenv("RETROCLIP_CACHE", str(tmp_path / "empty"))
    with pytest.raises(MemoryStoreError, match="is missing: build it again with `retroclip memory index s3://"):
        found(Memory.open(str(remote.path)))
    remote.index("exact")
    local.index("exact")
    assert found(remote) == found(local)


def test_an_interrupted_creation_goes_on_and_appears_whole(bucket, tmp_path, encoder, pairs):
    def stop(read, rejected):
        if read >= 32:
            raise KeyboardInterrupt

    url, options = f"{bucket}/interrupted", {"shard_pairs": 16, "batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        Memory.create(url, encoder, pairs, on_batch=stop, **options)
    with pytest.raises(MemoryStoreError, match="is not finished: run the same"):
        Memory.open(url)
    with pytest.raises(MemoryStoreError, match="another labels_as_captions"):
        Memory.create(url, encoder, pairs, labels_as_captions=True, **options)
    memory = Memory.create(url, encoder, pairs, **options)
    assert contents(memory) == contents(Memory.create(tmp_path / "local", encoder, pairs, **options))
    with pytest.raises(MemoryStoreError, match="exists already: add to it"):
        Memory.create(url, encoder, pairs)


def test_a_creation_that_read_nothing_good_leaves_nothing(bucket, encoder, pairs):
    from retroclip.pairs import Pair

    with pytest.raises(Exception, match="pairs are bad"):
        Memory.create(f"{bucket}/bad", encoder, [Pair("a", b"nothing")])
    assert located(f"{bucket}/bad").names() == []


def test_one_writer_at_a_time(bucket, encoder, pairs, monkeypatch):
    memory = Memory.create(f"{bucket}/locked", encoder, pairs[:20])
    with writer_lock(memory.path), pytest.raises(MemoryStoreError, match=r"being written by process \d+ on "):
        memory.delete("label = 'odd'")
    killed = lease._Lease(memory.path, 7, "x", "1 on nowhere", 0)
    killed.write("create")
    with pytest.raises(MemoryStoreError, match="being written by process 1 on nowhere"):
        memory.delete("label = 'odd'")
    monkeypatch.setattr(lease, "LIFETIME", 0.0)
    assert memory.delete("label = 'odd'") > 0
    left = lease._present(memory.path)  # for the other one to find, should it only have stalled; nobody waits for it
    assert (left.number, left.renewed) == (8, lease.RELEASED)
    monkeypatch.undo()
    assert memory.delete("label = 'even'") > 0
    assert lease._present(memory.path).number == 9


def test_of_two_that_begin_together_one_goes_on(bucket, encoder, pairs, monkeypatch):
    """The other one's lease arrives between our looking and our putting."""
    import boto3
    from moto.s3.responses import S3Response

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    memory = Memory.create(f"{bucket}/together", encoder, pairs[:20])
    other = Url(f"{bucket}/other-lease")
    lease._Lease(other, 1, "x", "1 on nowhere", 0).write("create")
    (manifest,) = [name for name in other.names() if name.endswith(".manifest")]
    put, copied = S3Response.put_object, []

    def put_after_the_other(self, *arguments, **options):
        if not copied and "together/writer" in self.path and self.path.endswith(".manifest"):
            copied.append(self.headers.get("If-None-Match"))
            source = {"Bucket": "bucket", "Key": f"other-lease/{manifest}"}
            client.copy_object(Bucket="bucket", Key=f"together/{manifest}", CopySource=source)
        return put(self, *arguments, **options)

    monkeypatch.setattr(S3Response, "put_object", put_after_the_other)
    with pytest.raises(MemoryStoreError, match="being written by process 1 on nowhere"):
        memory.delete("label = 'odd'")
    assert copied == ["*"]
    assert len(Memory.open(str(memory.path))) == 20


def test_a_writer_that_stalled_is_told(bucket, encoder, pairs, monkeypatch):
    memory = Memory.create(f"{bucket}/stalled", encoder, pairs[:20])
    monkeypatch.setattr(lease, "LIFETIME", 0.0)
    with (
        pytest.raises(MemoryStoreError, match="this process stalled"),
        writer_lock(memory.path),
        writer_lock(memory.path),
    ):
        pass


def test_a_writer_that_stalled_is_told_also_where_the_other_one_is_done(bucket, monkeypatch):
    url = located(f"{bucket}/stalled-for-long")
    monkeypatch.setattr(lease, "LIFETIME", 0.0)
    monkeypatch.setattr(lease, "RENEWED", 0.05)
    with pytest.raises(MemoryStoreError, match="this process stalled"), writer_lock(url):
        with writer_lock(url):
            pass
        time.sleep(1.0)  # the first one's renewals go on
    assert (url / lease.FOLDER).names() == []


def test_compaction_keeps_versions_that_may_be_read(bucket, encoder, pairs):
    memory = Memory.create(f"{bucket}/compact", encoder, pairs[:30])
    memory.add(pairs, encoder)
    memory.delete("label = 'odd'")
    before, version = contents(memory), memory.version
    told = memory.compact()
    assert (told["files_before"], told["files"], told["old_versions_kept"]) == (2, 1, True)
    assert contents(memory) == before
    assert memory._store._dataset.checkout_version(version).count_rows() == len(memory)


def test_what_needs_a_local_memory_says_so(both, tmp_path, stub):
    remote = both[0]
    with pytest.raises(MemoryStoreError, match="`memory purge` works on local memories only"):
        remote.purge("key = 'p001'")
    with pytest.raises(MemoryStoreError, match="`memory migrate` works on local memories only"):
        remote.migrate(stub.StubEncoder(dim=8))
    remote.export(tmp_path / "out", "parquet")
    assert (tmp_path / "out").is_dir()


def test_what_is_not_there_is_told(bucket):
    with pytest.raises(MemoryStoreError, match="there is no memory at s3://bucket/nowhere"):
        Memory.open(f"{bucket}/nowhere")
    Url(f"{bucket}/other/file.txt").write_text("x")
    with pytest.raises(MemoryStoreError, match="is not a memory"):
        Memory.open(f"{bucket}/other")
    with pytest.raises(FileNotFoundError):
        Url(f"{bucket}/other/none.txt").read_text()


@pytest.mark.parametrize(
    ("text", "kind"), [("s3://b/m/", Url), ("gs://b/m", Url), ("mem", Path), ("C:/x", Path), ("a:/b", Path)]
)
def test_urls_and_paths_are_told_apart(text, kind):
    place = located(text)
    assert isinstance(place, kind)
    if kind is Url:
        assert (place.name, str(place / "x")) == ("m", text.rstrip("/") + "/x")
        assert str(place.parent).endswith("://b")
