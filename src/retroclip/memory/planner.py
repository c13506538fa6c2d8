"""Which index for so many rows, so much RAM and the wanted recall, and what it will take."""

import re
from dataclasses import dataclass
from typing import Any

import psutil

from retroclip.errors import MemoryStoreError
from retroclip.memory.exact import fast_bf16
from retroclip.memory.kinds import empty_index
from retroclip.memory.lists import default_lists

EXACT_ROWS = 100_000
"""Up to here exact search takes a few milliseconds a query and no index has to be kept up to date."""
NAMES = ("auto", "exact", "flat", "hnsw", "ivf", "ivfpq")
# Seconds a row and dimension on two cores of the machine of docs/decisions.md; an estimate, shown before a build.
SECONDS = {"exact": 0.0, "flat": 4e-9, "hnsw": 3e-7, "ivf": 4e-8, "ivfpq": 2e-7}
TRAINED = {"ivfpq": 60.0}  # seconds that training the codes and choosing how to search them take, however few rows
LINKS = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """An index for one key modality, and what to expect of it.

    kind: a name of `NAMES` but "auto", or "factory"; factory: FAISS's string, where FAISS builds it; lists, dims: of
    `ivf`. ram, disk: bytes of the index while it is searched, and on the disk; seconds: to build it; all estimates.
    """

    kind: str
    rows: int
    factory: str = ""
    lists: int = 0
    dims: int = 0
    ram: int = 0
    disk: int = 0
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """As lines for the terminal."""
        parameters = {"factory": self.factory} if self.factory else {}
        if self.kind == "ivf":
            parameters = {"lists": str(self.lists), "bytes a row": str(self.dims)}
        return {
            "kind": self.kind,
            **parameters,
            "rows": self.rows,
            "RAM": f"about {told_size(self.ram)}",
            "disk": f"about {told_size(self.disk)}",
            "time": f"about {self.seconds:.0f} s",
        }


def planned(rows: int, dim: int, *, kind: str = "auto", ram: int | None = None) -> Plan:
    """The plan for `rows` rows of `dim` numbers within `ram` bytes (default: half of what is free).

    kind "auto": exact search up to `EXACT_ROWS` rows where it fits; above, lists of 8-bit rows (`ivf`) with as many
    dimensions as fit, down to a quarter; then FAISS's OPQ-IVF-HNSW-PQ with as many bytes a row as fit. Recall is not a
    matter of the kind: search parameters are tuned to it afterwards. Any other kind is a FAISS factory string.
    Raises MemoryStoreError when nothing, or not the kind asked for, fits.
    """
    budget = psutil.virtual_memory().available // 2 if ram is None else ram
    if kind == "auto":
        for plan in _options(rows, dim):
            if plan.ram <= budget:
                return plan
        raise MemoryStoreError(
            f"no index of {rows} rows fits into {told_size(budget)}: the smallest needs {told_size(plan.ram)}"
        )
    plans = [plan for plan in _options(rows, dim, every=True) if plan.kind == kind] or [_custom(kind, rows, dim)]
    fitting = [plan for plan in plans if plan.ram <= budget]
    if ram is not None and not fitting:
        raise MemoryStoreError(
            f"{kind} of {rows} rows needs {told_size(plans[-1].ram)}, more than {told_size(ram)}: "
            "give it more, or let --kind auto choose"
        )
    return fitting[0] if fitting else plans[-1]


def _options(rows: int, dim: int, *, every: bool = False) -> list[Plan]:
    """What can be built, best first; every: also what is only built when it is asked for by name."""
    lists = default_lists(rows)
    files = rows * (2 * dim + 12)  # the rows themselves, their ids and norms, mapped beside an index
    held = rows * dim * (4 if rows > EXACT_ROWS else 6) + rows * 4 if fast_bf16() else rows * dim * 4
    plans = [Plan("exact", rows, ram=held)] if every or rows <= EXACT_ROWS else []
    for dims in dict.fromkeys((dim, dim // 2, dim // 4)):
        if dims >= 8:
            own = rows * (dims + 4) + lists * dims * 4
            plans.append(_plan("ivf", rows, dim, own + rows * 28, own + files, lists=lists, dims=dims))
    for size in (dim // 4, dim // 8, dim // 16, dim // 32):
        if size and dim % size == 0:
            own = rows * (size + 8) + lists * dim * 8
            factory = f"OPQ{size}_{dim},IVF{lists}_HNSW{LINKS},PQ{size}x8"
            plans.append(_plan("ivfpq", rows, dim, own + rows * 28, own + files, factory=factory, lists=lists))
    if every:
        graph = rows * (dim * 4 + LINKS * 8 + 16)
        plans.append(_plan("hnsw", rows, dim, graph + rows * 28, graph + files, factory=f"HNSW{LINKS}"))
        plans.append(_plan("flat", rows, dim, rows * (dim * 4 + 28), rows * dim * 4 + files, factory="Flat"))
    return plans


def _plan(kind: str, rows: int, dim: int, ram: int, disk: int, **options: Any) -> Plan:
    seconds = rows * dim * SECONDS[kind] + TRAINED.get(kind, 0)
    return Plan(kind, rows, ram=ram, disk=disk, seconds=seconds, **options)


def _custom(factory: str, rows: int, dim: int) -> Plan:
    """A plan for a factory string: its RAM from the bytes a row that its last part says, as far as it can be told."""
    empty_index(factory, dim)
    code = re.search(r"(?<!O)PQ(\d+)(?:x(\d+))?", factory)
    scalar = re.search(r"SQ(\d+|fp16|bf16)", factory)
    size = dim * 4
    if code:
        size = int(code[1]) * int(code[2] or 8) // 8
    elif scalar:
        size = dim * (16 if scalar[1].endswith("16") else int(scalar[1])) // 8
    graph = re.match(r"HNSW(\d+)", factory)
    size += int(graph[1]) * 8 + 16 if graph else 8
    lists = re.search(r"IVF(\d+)", factory)
    own = rows * size + (int(lists[1]) if lists else 0) * dim * 8
    kind = "hnsw" if graph else "ivfpq" if code else "flat"
    plan = _plan(kind, rows, dim, own + rows * 28, own + rows * (2 * dim + 12), factory=factory)
    return Plan("factory", rows, factory, int(lists[1]) if lists else 0, 0, plan.ram, plan.disk, plan.seconds)


def parsed_size(text: str) -> int:
    """`8GB`, `500 MB`, `1.5g` → bytes. Raises MemoryStoreError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    if not found or not float(found[1]):
        raise MemoryStoreError(f"{text!r} is no amount of memory: write it like 8GB or 500MB")
    return int(float(found[1]) * 1000 ** " kmgt".index(found[2] or " "))


def told_size(count: int) -> str:
    """Bytes for people: `1.23 GB`, `12.3 MB`, `4.5 kB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count / 1e3:.1f} kB"
