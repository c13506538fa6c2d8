"""Index build, RAM, recall and latency beside FAISS Flat and autofaiss, as rows grow: make bench-memory

Rows: the builtin's embeddings of `train` images of the shared data, turned into 512 dimensions by a fixed isometry,
and as many more as are wanted: a real row plus 0.6 times noise of the real rows' covariance (scaled to mean norm 1)
plus 0.05 times isotropic noise, normalised. Queries: 1,000 other real `train` images, never rows. Every system has a
process of its own, two threads, and is measured in batches of 1,000 queries, k = 10, the best of three; recall is
against exact search. cpu_ms is the processor time of both cores together: where other work runs beside, half of it is
the better measure. grown_gb: resident memory after building, tuning and searching, above what the process had before;
peak_grown_gb: the most at any moment until then. autofaiss gets an environment of its own below --work, removed at the
end. Kept: exact searches beside FAISS Flat's in results/exact.json, the last index built in results/index.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import store

DIM, QUERIES, K = 512, 1000, 10
SETS = ("flickr8k", "caltech101", "imagenet1k_samples", "cifar100", "intel_scenes", "flower_photos")
PEER = """
import json, sys, time, resource
import faiss, numpy as np
from autofaiss import build_index
folder, ram = sys.argv[1:3]
start = time.perf_counter()
index, _ = build_index(embeddings=folder + "/peer", save_on_disk=False, max_index_memory_usage=ram, nb_cores=2,
    current_memory_available="16GB", max_index_query_time_ms=10, metric_type="ip", verbose=40)
built = time.perf_counter() - start
faiss.omp_set_num_threads(2)
queries = np.load(folder + "/queries.npy")
runs = []
for _ in range(3):
    start = time.perf_counter(); found = index.search(queries, 10)[1]; runs.append(time.perf_counter() - start)
np.save(folder + "/found.npy", found)
print(json.dumps({"build_s": built, "ms": min(runs) * 1000 / len(queries),
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("bench-index"))
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--ram", default="4GB,1GB")
    parser.add_argument("--images", type=int, default=2000, help="images of a data set to embed at most")
    parser.add_argument("--kinds", default="auto,flat", help="kinds to measure; at the first RAM only but for auto")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.work, *options.one)))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    python = None if options.no_peer else peer_environment(options.work)
    best: dict[str, Any] = {}
    exact_searches: list[dict[str, Any]] = []
    try:
        base, queries = features(options)
        for count in map(int, options.rows.split(",")):
            flat = prepare(options.work, base, queries, count, peer=python is not None)
            exact = np.load(options.work / "exact.npy")
            print(f"== {count} rows x {DIM}, {len(queries)} queries a batch, k = {K}", flush=True)
            for number, ram in enumerate(options.ram.split(",")):
                mine = {}
                for kind in options.kinds.split(",") if number == 0 else ["auto"]:
                    command = [sys.executable, __file__, "--work", str(options.work), "--one", str(count), kind, ram]
                    mine[kind] = own = told(f"{kind} within {ram}", command, options.work, exact)
                    ratio = flat["ms"] / own["ms"] if own else 0.0
                    if own.get("kind") == "exact" and number == 0:
                        exact_searches.append({"rows": count, "ms": own["ms"], "cpu_ms": own["cpu_ms"], "flat": flat})
                        print(f"   FAISS Flat / {kind}: ms {ratio:.2f}", flush=True)
                    elif own.get("kind") not in (None, "exact") and kind == "auto":
                        best = {"rows": count, "dim": DIM, "ram": ram, **own}
                        best["rows_per_second"] = count / max(best["build_s"], 1e-9)
                if python:
                    command = [str(python), "-c", PEER, str(options.work), ram.replace("GB", "G")]
                    peer = told(f"autofaiss within {ram}", command, options.work, exact)
                    if peer and mine.get("auto"):
                        kept = [name for name in ("ms", "build_s") if mine["auto"][name]]  # exact search builds nothing
                        ratios = {name: peer[name] / mine["auto"][name] for name in kept}
                        print(
                            "   autofaiss / auto: " + ", ".join(f"{n} {r:.1f}" for n, r in ratios.items()), flush=True
                        )
        if best:
            store("index", best)
        if exact_searches:
            store("exact", {"dim": DIM, "queries": QUERIES, "k": K, "all": exact_searches}, versions=("faiss-cpu",))
    finally:
        shutil.rmtree(options.work / "venv", ignore_errors=True)


def told(name: str, command: list[str], work: Path, exact: Any) -> dict[str, float]:
    """Run one system and print what it says, with the recall of what it found."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip() or "no message").splitlines()[-1]
        print(f"   {name}: failed ({last[:200]})", flush=True)
        return {}
    result = json.loads(run.stdout.strip().splitlines()[-1])
    found = np.load(work / "found.npy")
    for n in (1, K):
        result[f"recall@{n}"] = np.mean([np.isin(e[:n], f[:n]).mean() for e, f in zip(exact, found, strict=True)])
    line = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()
    )
    print(f"   {name}: {line}", flush=True)
    return dict(result)


def features(options: argparse.Namespace) -> tuple[Any, Any]:
    """Real rows and queries, float32 unit norm (n, DIM); embedded once a work folder."""
    path = options.work / "features.npy"
    if not path.exists():
        import pyarrow.parquet as pq

        import retroclip

        encoder, parts = retroclip.load("builtin"), []
        for name in SETS:
            table = pq.read_table(options.data / f"{name}.parquet", columns=["image", "split"])
            images = table.filter(np.array(table["split"].to_pylist()) == "train")["image"].to_pylist()
            parts.append(encoder.encode_images(images[: options.images]).numpy())
            print(f"embedded {len(parts[-1])} images of {name}", flush=True)
        rows = np.concatenate(parts)
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0][: rows.shape[1]]
        np.save(path, (rows @ turn).astype(np.float32))
    rows = np.load(path)
    order = np.random.default_rng(1).permutation(len(rows))
    return rows[order[QUERIES:]], rows[order[:QUERIES]]


def prepare(work: Path, base: Any, queries: Any, count: int, *, peer: bool) -> dict[str, float]:
    """Write the rows (for us, and for the peer), the queries and the exact answer; FAISS Flat's times."""
    import faiss

    from retroclip.memory.arrays import new_arrays

    rng = np.random.default_rng(2)
    centred = base - base.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(base))
    shape = (vectors * np.sqrt(values.clip(min=0) / values.clip(min=0).sum())).astype(np.float32).T
    (work / "peer").mkdir(exist_ok=True)
    shapes = {"ids": (np.int64, (count,)), "rows": (np.float16, (count, DIM)), "scales": (np.float32, (count,))}
    flat = faiss.IndexFlatIP(DIM)
    with new_arrays(work / "rows", shapes) as arrays:
        for start in range(0, count, 50_000):
            size = min(50_000, count - start)
            rows = base[rng.integers(0, len(base), size)]
            rows = rows + 0.6 * rng.standard_normal((size, DIM), np.float32) @ shape
            rows += 0.05 * rng.standard_normal((size, DIM), np.float32) / DIM**0.5
            if start == 0:
                rows[: min(size, len(base))] = base[:size]
            half = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
            arrays["rows"][start : start + size] = half
            arrays["scales"][start : start + size] = 1 / np.linalg.norm(half.astype(np.float32), axis=1)
            flat.add(half.astype(np.float32))
        arrays["ids"][:] = np.arange(count)
    if peer:
        np.save(work / "peer" / "rows.npy", faiss.rev_swig_ptr(flat.get_xb(), count * DIM).reshape(count, DIM))
    np.save(work / "queries.npy", queries)
    best, ms, cpu = best_of(lambda: flat.search(queries, K)[1])
    np.save(work / "exact.npy", best)
    print(f"== FAISS Flat over {count} rows: ms {ms:.3f}, cpu_ms {cpu:.3f} a query", flush=True)
    return {"ms": ms, "cpu_ms": cpu}


def ours(work: Path, count: str, kind: str, ram: str) -> dict[str, Any]:
    """Build, tune and search one index; what `retroclip memory index` does once it has the rows."""
    import torch

    from retroclip.memory.exact import exact_search
    from retroclip.memory.index import stored_rows
    from retroclip.memory.kinds import FaissIndex, build_faiss, faiss
    from retroclip.memory.lists import ListIndex, build_lists
    from retroclip.memory.measure import own_samples, tuned
    from retroclip.memory.planner import EXACT_ROWS, parsed_size, planned
    from retroclip.memory.rows import HeldRows

    torch.set_num_threads(2)
    ids, rows = stored_rows(work / "rows")
    queries = torch.from_numpy(np.load(work / "queries.npy"))
    before = status()
    plan = planned(int(count), DIM, kind=kind, ram=parsed_size(ram))
    if plan.kind == "exact":
        matrix = rows if int(count) > EXACT_ROWS else HeldRows(rows.gather(ids))  # as a memory keeps them
        found, ms, cpu = best_of(lambda: exact_search(queries, matrix, ids, K)[0])
        np.save(work / "found.npy", found)
        return {"kind": "exact", "build_s": 0.0, "ms": ms, "cpu_ms": cpu, **memory_since(before)}
    start, used = time.perf_counter(), time.process_time()
    path = work / "index"
    if plan.kind == "ivf":
        build_lists(path, rows, lists=plan.lists, dims=plan.dims)
        index: Any = ListIndex(path)
    else:
        faiss.write_index(build_faiss(plan.factory, rows), str(path))
        index = FaissIndex.read(path)
    built, used = time.perf_counter() - start, time.process_time() - used
    parameters, _ = tuned(index, rows, own_samples(rows), 0.95)
    tuning = time.perf_counter() - start - built
    rows.release()
    found, ms, cpu = best_of(lambda: index.nearest(queries, rows, K, parameters)[0])
    alone = best_of(lambda: index.nearest(queries[:1], rows, K, parameters)[0], 1)[1]
    memory = memory_since(before)
    np.save(work / "found.npy", found)
    places = np.random.default_rng(3).choice(int(count), min(40_000, int(count)), replace=False)
    gather = best_of(lambda: rows.gather(places), 1)[1] / 1000
    return {
        "kind": plan.factory or f"{plan.kind} {plan.lists} lists x {plan.dims} bytes",
        "parameters": json.dumps(parameters),
        "build_s": built,
        "build_cpu_s": used,
        "tune_s": tuning,
        "ms": ms,
        "cpu_ms": cpu,
        "ms_alone": alone,
        "planned_gb": plan.ram / 1e9,
        **memory,
        "gather_40000_s": gather,
    }


def best_of(work: Callable[[], Any], count: int = QUERIES) -> tuple[Any, float, float]:
    """What `work` returns, its milliseconds a query, and its milliseconds of processor time a query."""
    runs, used = [], []
    for _ in range(3):
        start, started = time.perf_counter(), time.process_time()
        result = work()
        runs.append(time.perf_counter() - start)
        used.append(time.process_time() - started)
    return result, 1000 * min(runs) / count, 1000 * min(used) / count


def status() -> dict[str, float]:
    """Memory of this process in GB, as the kernel tells it."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1e6 for words in lines if words[-1] == "kB"}


def memory_since(before: dict[str, float]) -> dict[str, float]:
    now = status()
    return {"grown_gb": now["VmRSS"] - before["VmRSS"], "peak_grown_gb": now["VmHWM"] - before["VmRSS"]}


def peer_environment(work: Path) -> Path:
    """autofaiss in an environment of its own; the path of its python."""
    python = work / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(work / "venv")], check=True)
    subprocess.run([str(python), "-I", "-m", "pip", "install", "--quiet", "autofaiss", "pyarrow<20"], check=True)
    return python


if __name__ == "__main__":
    main()
