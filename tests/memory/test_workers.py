"""Encoding on Ray gives the rows of a local run, also when a worker is killed, or the run is."""

import os
import signal
import sys

import lance
import pytest
import torch

import retroclip
from retroclip.errors import MemoryStoreError, ModelError, SourceError
from retroclip.memory import Memory, workers
from retroclip.pairs import Pair

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def started(stub):
    """Ray with room for two workers, which get the stub's classes by value: its module isn't on their path."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    ray.cloudpickle.register_pickle_by_value(stub)
    yield
    ray.cloudpickle.unregister_pickle_by_value(stub)
    ray.shutdown()


def contents(memory):
    rows = memory.take(memory.ids()).to_pydict()
    vectors = [memory.embeddings(of=of).tolist() for of in ("image", "text")]
    return rows, memory.ids().tolist(), vectors, memory.rejected(), memory.manifest.counts


@pytest.fixture
def stream(pairs, stub):
    """Pairs with bad ones, a key that comes again in another shard, and one whose first image is broken."""
    again = [Pair("p003", stub.photo(3)), Pair("cut", stub.photo(80))]
    return [
        *pairs[:20],
        Pair("cut", b"nothing"),
        Pair("", b"?"),
        *pairs[20:],
        *again,
        Pair("blank", stub.photo(9), (" ",)),
    ]


OPTIONS = {"shard_pairs": 8, "batch_size": 4, "max_rejected": 0.5}
RAY = {"ray": "local", "workers": 2}


def test_the_same_rows_as_a_local_run(tmp_path, started, encoder, stream):
    local = Memory.create(tmp_path / "local", encoder, stream, images="thumbnail", **OPTIONS)
    told = []
    memory = Memory.create(
        tmp_path / "m", encoder, stream, images="thumbnail", on_batch=lambda *now: told.append(now), **OPTIONS, **RAY
    )
    assert contents(memory) == contents(local)
    assert memory._store.files() == local._store.files()
    assert told[-1] == (len(stream), 2)
    assert memory.verify() == []


@pytest.mark.slow
def test_adding_and_replacing(tmp_path, started, encoder, stream, stub, pairs):
    results = []
    for name, options in (("local", {}), ("m", RAY)):
        memory = Memory.create(tmp_path / name, encoder, pairs[:10], shard_pairs=8)
        added = [memory.add(stream, encoder, max_rejected=0.5, **options)]
        changed = [Pair(pair.key, stub.photo(900), pair.captions) for pair in pairs[5:20]]
        added.append(memory.add(changed, encoder, known="replace", **options))
        results.append((added, contents(memory)))
    assert results[0] == results[1]


def test_interrupted_and_repeated(tmp_path, started, encoder, stream):
    def stop(read, rejected):
        if read >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Memory.create(tmp_path / "m", encoder, stream, on_batch=stop, **OPTIONS, **RAY)
    assert 0 < len(lance.dataset(str(tmp_path / "m.partial" / "pairs.lance")).to_table()) < len(stream)
    memory = Memory.create(tmp_path / "m", encoder, stream, **OPTIONS)  # where it was begun is no matter
    local = Memory.create(tmp_path / "local", encoder, stream, **OPTIONS)
    assert contents(memory) == contents(local)


def test_shards_lost_with_a_worker_are_done_again(tmp_path, started, encoder, stream, stub):
    class Mortal(stub.StubEncoder):
        """Ends the process that encodes with it, once."""

        def encode_images(self, images, **options):
            flag = tmp_path / "killed"
            if os.getpid() != parent and not flag.exists() and (images[:, 0, 0, 0] == mark).any():
                flag.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode_images(images, **options)

    from retroclip.pairs import decode_image

    parent = os.getpid()
    mark = float(encoder.preprocess(decode_image(stream[30].image))[0, 0, 0])
    memory = Memory.create(tmp_path / "m", Mortal(), stream, **OPTIONS, **RAY)
    assert (tmp_path / "killed").exists()
    local = Memory.create(tmp_path / "local", encoder, stream, **OPTIONS)
    assert contents(memory) == contents(local)


def test_what_a_worker_raises_is_raised_here(tmp_path, started, stub, pairs):
    class Broken(stub.StubEncoder):
        def encode_images(self, images, **options):
            raise ModelError("the weights are damaged")

    with pytest.raises(ModelError, match=r"^the weights are damaged$"):
        Memory.create(tmp_path / "m", Broken(), pairs, **RAY)
    assert list(tmp_path.iterdir()) == []


def test_embeddings_need_no_ray(tmp_path, encoder, pairs):
    Memory.create(tmp_path / "m", encoder, pairs).export(tmp_path / "out", "clip-retrieval")
    with pytest.raises(SourceError, match="without encoding: leave --ray out"):
        Memory.create(tmp_path / "again", encoder, tmp_path / "out", ray="local")


def test_without_ray_the_extra_is_named(tmp_path, encoder, pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MemoryStoreError, match=r"pip install 'retroclip\[ray\]'"):
        Memory.create(tmp_path / "m", encoder, pairs, ray="local")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("machines", "wanted", "shares"),
    [
        ([2], None, (1, 2)), ([2], 2, (2, 1)), ([2], 4, (4, 0.5)), ([16], None, (4, 4)), ([8, 2], None, (5, 2)),
        ([6, 6], None, (2, 4)), ([6, 6], 3, (3, 3)), ([8, 2], 4, (4, 2)), ([0, 4], 1, (1, 4)),
    ],
)  # fmt: skip
def test_every_worker_fits_a_machine(machines, wanted, shares):
    class Cluster:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": {"CPU": float(cpus)} if cpus else {}} for cpus in machines]

    assert workers._shares(Cluster, wanted) == shares


@pytest.mark.slow
def test_a_real_encoder_travels(tmp_path, started, tiny_model, pairs):
    encoder = retroclip.load(tiny_model(0))
    local = Memory.create(tmp_path / "local", encoder, pairs[:12], shard_pairs=5)
    memory = Memory.create(tmp_path / "m", encoder, pairs[:12], shard_pairs=5, **RAY)
    assert memory.take(memory.ids()).equals(local.take(local.ids()))
    for of in ("image", "text"):
        assert torch.allclose(memory.embeddings(of=of), local.embeddings(of=of), atol=2e-3)
