"""Hours, bytes and money for a memory of many pairs, computed from measured rates: python benchmarks/scale.py

Rates are read from benchmarks/results/*.json, where `make bench-memory` leaves them, or given as options; nothing is
assumed. Embedding grows with the number of pairs and shrinks with that of machines (`--ray`); importing, indexing and
searching are work of one machine. The index's RAM and disk are the planner's for that many rows; its build time is that
of the largest one measured, times the rows (its lists are trained on a sample). Prices are yours: by the hour of one
machine like the measured one, and by the GB and month of the storage.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

MEASURED = {
    "embed_rate": ("embed", "pairs_per_second", "pairs a second that one machine embeds"),
    "image_bytes": ("embed", "image_bytes", "bytes of an image as it is stored"),
    "thumbnail_bytes": ("embed", "thumbnail_bytes", "bytes of its thumbnail"),
    "import_rate": ("import", "rows_per_second", "rows a second that are imported"),
    "row_bytes": ("import", "bytes_per_row", "bytes of a row without its image"),
    "build_rate": ("index", "rows_per_second", "rows a second of the index's build"),
    "search_ms": ("index", "ms", "milliseconds a query, in batches, at the measured number of rows"),
    "search_rows": ("index", "rows", "the measured number of rows"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, default=400e6)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--machines", default="1,10,100", help="how many embed")
    parser.add_argument("--ram", default="64GB", help="what the index of one modality may take")
    parser.add_argument("--price-hour", type=float, help="of one machine")
    parser.add_argument("--price-gb-month", type=float, help="of storage")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    for name, (_, _, about) in MEASURED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=about)
    options = parser.parse_args()
    rates, origins, kind = measured(options)
    for line in [*table(options, rates, kind), "", *origins]:
        print(line)


def measured(options: argparse.Namespace) -> tuple[dict[str, float], list[str], str | None]:
    """The rates, a line on where each file's come from, and the kind of index whose figures are among them.

    A rate that is neither stored nor given ends the run.
    """
    rates: dict[str, float] = {}
    files: dict[str, dict[str, Any]] = {}
    missing = []
    for name, (file, key, _) in MEASURED.items():
        given = getattr(options, name)
        if given is not None:
            rates[name] = given
            continue
        path = options.results / f"{file}.json"
        content = files.get(file) or (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
        if key in content.get("figures", {}):
            files[file] = content
            rates[name] = float(content["figures"][key])
        else:
            missing.append(f"--{name.replace('_', '-')} (or run benchmarks/bench_{file}.py)")
    if missing:
        raise SystemExit(f"not measured here: {', '.join(missing)}")
    origins = [
        f"{name}: `python benchmarks/bench_{name}.py` on {found['cores']} cores of {found['processor']}, "
        f"{found['date']}"
        for name, found in files.items()
    ]
    return rates, origins, files["index"]["figures"]["kind"].split()[0] if "index" in files else None


def table(options: argparse.Namespace, rates: dict[str, float], kind: str | None = None) -> list[str]:
    """The figures as the lines of a Markdown table; what an index of another `kind` took is left out."""
    from retroclip.memory.planner import parsed_size, planned

    pairs, price, storage = options.pairs, options.price_hour, options.price_gb_month
    plan = planned(int(pairs), options.dim, ram=parsed_size(options.ram))
    rows = [(f"{pairs / 1e6:,.0f} M pairs, {options.dim} dimensions", "hours", "bytes", "money")]

    def work(what: str, seconds: float, machines: int = 1, size: float | None = None) -> None:
        hours = seconds / 3600 / machines
        cost = "" if price is None else f"{hours * machines * price:,.0f}"
        rows.append((what, f"{hours:,.1f}", "" if size is None else told(size), cost))

    def kept(what: str, size: float) -> None:
        rows.append((what, "", told(size), "" if storage is None else f"{size / 1e9 * storage:,.0f} a month"))

    for machines in map(int, options.machines.split(",")):
        work(f"embedding, {machines} machines", pairs / rates["embed_rate"], machines)
    work("or importing embeddings", pairs / rates["import_rate"])
    row = rates["row_bytes"] * pairs
    kept("store, `--images none`", row)
    kept("store, `--images thumbnail`", row + rates["thumbnail_bytes"] * pairs)
    kept("store, `--images store`", row + rates["image_bytes"] * pairs)
    planned_kind = f"{plan.kind} of {plan.dims} bytes" if plan.kind == "ivf" else plan.factory or plan.kind
    index, is_measured = f"index of images or texts ({planned_kind}): build; RAM", kind in (None, plan.kind)
    if is_measured:
        work(index, pairs / rates["build_rate"], size=plan.ram)
    else:
        rows.append((index, "not measured", told(plan.ram), ""))
    kept("the same: files", plan.disk)
    if is_measured:
        milliseconds = rates["search_ms"] * (pairs / rates["search_rows"]) ** 0.5
        rows.append(("search, if a query reads √rows lists' worth", f"{milliseconds:,.1f} ms a query", "", ""))
    head, *body = ["| " + " | ".join(cells) + " |" for cells in rows]
    return [head, "| --- | ---: | ---: | ---: |", *body]


def told(size: float) -> str:
    return f"{size / 1e12:,.2f} TB" if size >= 1e12 else f"{size / 1e9:,.1f} GB"


if __name__ == "__main__":
    main()
