"""Encoding on Ray: runs of the stream go to actors that hold the encoder, and come back in the stream's order."""

import logging
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.imports import Chunk
from retroclip.memory.ingest import Ingest, blocks, encode_block
from retroclip.memory.schema import pair_table
from retroclip.pairs import Pair, Rejected

THREADS = 4  # of a worker on processors: more of them in one process encode a batch little faster
AHEAD = 3  # blocks for each worker that are handed out or finished and not written yet
TRIES = 4
START_SECONDS = 300.0
Block = Sequence[Pair | Rejected]


def encoded_on_ray(
    items: Iterable[Pair | Rejected], encoder: Any, options: Ingest, *, committed: Container[str], resume: bool
) -> Iterator[Chunk]:
    """What `encoded_shards` makes of the stream, as chunks to commit, encoded by the workers of `options.ray`.

    Chunks come in the stream's order with the same rows. A block that is lost with its worker is encoded again by
    another one. Raises MemoryStoreError where Ray is missing, can't be reached or starts no worker, and for a block
    that ends its workers TRIES times.
    """
    with _workers(encoder, options) as pool:
        seen: set[str] = set()
        waiting: deque[_Handed] = deque()
        read = bad = 0

        def finished() -> Chunk:
            nonlocal read, bad
            chunk, keys = pool.result(waiting.popleft())
            seen.update(keys)
            read, bad = read + chunk.read, bad + chunk.bad
            if options.on_batch:
                options.on_batch(read, bad)
            return chunk

        for block in blocks(items, options):
            keys = {item.key for item in block if isinstance(item, Pair)}
            # Which of two pairs with one key is a row depends on whether the first can be decoded: wait for it.
            while waiting and (len(waiting) >= pool.room or any(not keys.isdisjoint(own.keys) for own in waiting)):
                yield finished()
            there = frozenset(key for key in keys if key in committed)
            known = there | (keys & seen)
            sent = [
                replace(item, image=None) if isinstance(item, Pair) and item.key in known else item for item in block
            ]
            waiting.append(pool.hand_out(keys, sent, there, frozenset(keys & seen), resume))
        while waiting:
            yield finished()


class _Encoding:
    """What a worker runs."""

    def __init__(self, encoder: Any, options: Ingest, threads: int) -> None:
        torch.set_num_threads(threads)
        self.encoder, self.options = encoder, options

    def ready(self) -> None:
        pass

    def encode(
        self, block: Block, committed: frozenset[str], seen: frozenset[str], resume: bool
    ) -> tuple[Chunk, set[str]]:
        shard, after = encode_block(
            block, self.encoder, self.options, committed=committed, seen=set(seen), resume=resume
        )
        table = pair_table(shard.rows, self.encoder.dim)
        return Chunk(table, shard.rejected, shard.read, shard.bad, shard.duplicates), after


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor that runs, and the results that it promised."""

    actor: Any
    promised: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Handed:
    """A block that is with a worker: its keys, what the worker was called with, and the promised result."""

    keys: set[str]
    arguments: tuple[Any, ...]
    worker: _Worker
    result: Any
    first: str


class _Pool:
    """Workers that run, and those that are starting: all of them at first, later in the place of one that ended."""

    def __init__(self, ray: Any, start: Callable[[], Any], count: int) -> None:
        self.ray, self._start = ray, start
        self.room = AHEAD * count
        self._running: list[_Worker] = []
        self._starting: dict[Any, Any] = {}
        for _ in range(count):
            self._begin()
        self._admit(count, START_SECONDS)

    def _begin(self) -> None:
        actor = self._start()
        self._starting[actor.ready.remote()] = actor

    def _admit(self, count: int, seconds: float) -> None:
        """Take those that have started, waiting until `count` have. Raises MemoryStoreError where none runs then."""
        promises = list(self._starting)
        if promises:
            for promise in self.ray.wait(promises, num_returns=min(count, len(promises)), timeout=seconds)[0]:
                actor = self._starting.pop(promise)
                try:
                    self.ray.get(promise)
                except self.ray.exceptions.RayError as error:
                    if not self._running and not self._starting:
                        raise MemoryStoreError(f"Ray's workers can't start ({_last_line(error)})") from error
                    continue
                self._running.append(_Worker(actor))
        if not self._running and seconds:
            raise MemoryStoreError(f"Ray started no worker in {seconds:.0f} s: are its processors taken?")

    def hand_out(self, keys: set[str], block: Block, *others: Any) -> _Handed:
        """Give a block to the worker that has least to do."""
        arguments = (self.ray.put(block), *others)
        return _Handed(keys, arguments, *self._called(arguments), block[0].key)

    def _called(self, arguments: tuple[Any, ...]) -> tuple[_Worker, Any]:
        self._admit(1, 0 if self._running else START_SECONDS)
        for worker in self._running:
            if worker.promised:
                every = worker.promised
                worker.promised = self.ray.wait(every, num_returns=len(every), timeout=0)[1]
        chosen = min(self._running, key=lambda worker: len(worker.promised))
        result = chosen.actor.encode.remote(*arguments)
        chosen.promised.append(result)
        return chosen, result

    def result(self, handed: _Handed) -> tuple[Chunk, set[str]]:
        """What a worker made of a block, or another one after it."""
        errors = self.ray.exceptions
        for left in reversed(range(TRIES)):
            try:
                return self.ray.get(handed.result)
            except errors.RayTaskError as error:
                raise error.cause from None
            except (errors.RayActorError, errors.ObjectLostError) as error:
                if not left:
                    raise MemoryStoreError(
                        f"{TRIES} workers ended while they encoded the pairs from {handed.first!r} on "
                        f"({type(error).__name__}): take fewer --workers, so that each has more memory"
                    ) from error
                if isinstance(error, errors.RayActorError) and handed.worker in self._running:
                    self._running.remove(handed.worker)
                    self._begin()
            handed.worker, handed.result = self._called(handed.arguments)
        raise AssertionError

    def end(self) -> None:
        for actor in [*(worker.actor for worker in self._running), *self._starting.values()]:
            self.ray.kill(actor)


@contextmanager
def _workers(encoder: Any, options: Ingest) -> Iterator[_Pool]:
    ray = _imported()
    with _connected(ray, str(options.ray)):
        count, processors = _shares(ray, options.workers)
        gpus = 0
        if getattr(getattr(encoder, "device", None), "type", "cpu") == "cuda":
            gpus, count = 1, options.workers or max(1, int(ray.cluster_resources().get("GPU", 0)))
        held, own = ray.put(encoder), replace(options, on_batch=None)
        kind = ray.remote(_Encoding).options(num_cpus=processors, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        pool = _Pool(ray, lambda: kind.remote(held, own, max(1, int(processors))), count)
        try:
            yield pool
        finally:
            pool.end()


def _imported() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MemoryStoreError("ray is not installed: pip install 'retroclip[ray]'") from None
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Ray at an address, or "local": one of this run's own; one that the process is connected to already stays."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        here = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **here)
    except Exception as error:  # of several kinds, none of them documented
        raise MemoryStoreError(f"Ray can't be reached at {address!r} ({_last_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _shares(ray: Any, wanted: int | None) -> tuple[int, float]:
    """How many workers, and the processors of each: no more than the smallest machine has."""
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    machines = [cpus for cpus in machines if cpus] or [1]
    if wanted is None:
        each = min(THREADS, *machines)
        return sum(cpus // each for cpus in machines), each
    if wanted > sum(machines):
        return wanted, int(100 * sum(machines) / wanted) / 100  # Ray counts in small decimal shares
    return wanted, next(n for n in range(max(machines), 0, -1) if sum(cpus // n for cpus in machines) >= wanted)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
