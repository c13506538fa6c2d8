"""Stored indexes beside the rows: described, checked by a checksum, opened, and replaced at once."""

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.arrays import ArrayFile
from retroclip.memory.disk import read_json, write_json
from retroclip.memory.kinds import FaissIndex
from retroclip.memory.lists import ListIndex
from retroclip.memory.location import Location
from retroclip.memory.rows import HalfRows, Rows
from retroclip.memory.schema import FloatMatrix, IdArray

INDEX_FOLDER = "index"
INDEX_NAME = "index.json"
KINDS = ("flat", "hnsw", "ivf", "ivfpq", "factory")
LAYOUT = 2  # 1: FAISS files that hold the rows' ids, without a file of the rows


class Searchable(Protocol):
    """What a kind of index answers; places are positions in the rows it was built from."""

    def __len__(self) -> int: ...

    def nearest(
        self, queries: torch.Tensor, rows: Rows, k: int, parameters: dict[str, int], allowed: torch.Tensor | None = None
    ) -> tuple[IdArray, FloatMatrix]: ...


@dataclass(slots=True)
class KeyIndex:
    """One stored index, over the embeddings of one key modality.

    version: the store's version it was built from; rows: how many it holds; last_row_id: rows with larger ids are newer
    and not in it; trained_rows: how many there were when it was last built anew; parameters: what it is searched with;
    recall: its share of the exact top 1, 10 and 20 for its own rows as queries ("own"), for queries between them
    ("unseen") and of the other modality ("cross"); latency: milliseconds a query, in a batch and alone; ram: estimated
    bytes; seconds: to build it.
    """

    kind: str
    version: int
    rows: int
    last_row_id: int
    parameters: dict[str, int]
    recall: dict[str, dict[str, float]]
    factory: str = ""
    trained_rows: int = 0
    latency: dict[str, float] = field(default_factory=dict)
    ram: int = 0
    seconds: float = 0.0
    file: str = ""
    sha256: str = ""
    rows_file: str = ""
    rows_sha256: str = ""


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """A stored index ready for searches: its entry, the index, the sorted ids (m,) of its rows, and these."""

    entry: KeyIndex
    index: Searchable
    ids: IdArray
    rows: HalfRows


class IndexFolder:
    """The stored indexes of a memory, `index.json` naming them; a new set replaces the old one at once."""

    def __init__(self, directory: Path) -> None:
        self._memory: Location = directory
        self.folder = directory / INDEX_FOLDER
        self._opened: dict[str, OpenIndex] = {}

    def entries(self) -> dict[str, KeyIndex]:
        """The stored indexes by key modality; none: search is exact.

        Those of an older layout count as none. Raises MemoryStoreError for a newer one.
        """
        try:
            content = self._description()
        except FileNotFoundError:
            return {}
        layout = content.get("layout", 1)
        if not isinstance(layout, int):
            raise MemoryStoreError(f"{self.folder / INDEX_NAME} is damaged (layout): {self._remedy}")
        if layout > LAYOUT:
            raise MemoryStoreError(
                f"{self.folder / INDEX_NAME} has layout {layout}, newer than this retroclip reads ({LAYOUT}): update "
                f"retroclip, or {self._remedy}"
            )
        try:
            return {name: _entry(told) for name, told in (content["keys"] if layout == LAYOUT else {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MemoryStoreError(f"{self.folder / INDEX_NAME} is damaged ({error}): {self._remedy}") from error

    @property
    def _remedy(self) -> str:
        return f"build it again with `retroclip memory index {self._memory}`"

    def open(self, name: str, version: int) -> OpenIndex | None:
        """The index of a modality, kept open; None where there is none that was built from `version` or an older one.

        An index that another process has replaced since it was opened here goes on to be used by readers of the old
        version. Raises MemoryStoreError when the bytes are not those written.
        """
        for _ in range(3):
            entry = self.entries().get(name)
            present = self._opened.get(name)
            if entry is None or entry.version > version:
                return present if entry is not None and present and present.entry.version <= version else None
            if present and present.entry.sha256 == entry.sha256 and present.entry.rows_sha256 == entry.rows_sha256:
                return present
            problem = self.problem(entry)
            if problem is None:
                self._opened[name] = self._open(entry)
                return self._opened[name]
            if self.entries().get(name) == entry:  # else a writer has replaced it meanwhile
                break
        raise MemoryStoreError(str(problem))

    def _open(self, entry: KeyIndex) -> OpenIndex:
        path = self.folder / entry.file
        try:
            index = ListIndex(path) if entry.kind == "ivf" else FaissIndex.read(path)
            return OpenIndex(entry, index, *stored_rows(self.folder / entry.rows_file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise MemoryStoreError(f"{path} can't be read ({reason}): {self._remedy}") from error

    def problem(self, entry: KeyIndex) -> str | None:
        """What is wrong with the files of an index: FAISS itself loads one with a flipped bit without a word."""
        for name, checksum in ((entry.file, entry.sha256), (entry.rows_file, entry.rows_sha256)):
            path = self.folder / name
            if not name or not path.is_file():
                return f"{path}, which {INDEX_NAME} names, is missing: {self._remedy}"
            if checksum_of(path) != checksum:
                return f"{path}, or {INDEX_NAME} that names its checksum, is damaged: {self._remedy}"
        return None

    def replace(self, built: dict[str, tuple[KeyIndex, Path, Path]]) -> None:
        """Store indexes, given as files of index and rows in the folder, in place of the present ones.

        Names and checksums are filled into the entries. What is no longer named is removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, (entry, index, rows) in built.items():
            entry.sha256, entry.rows_sha256 = checksum_of(index), checksum_of(rows)
            entry.file = f"{name}-{entry.kind}-{entry.sha256[:12]}.{'ivf' if entry.kind == 'ivf' else 'faiss'}"
            entry.rows_file = f"{name}-rows-{entry.rows_sha256[:12]}.arrays"
            _flushed(index).replace(self.folder / entry.file)
            _flushed(rows).replace(self.folder / entry.rows_file)
        keys = {name: asdict(entry) for name, (entry, _, _) in built.items()}
        self._publish({"layout": LAYOUT, "keys": keys})
        self.tidy()

    def _description(self) -> dict[str, Any]:
        return read_json(self.folder / INDEX_NAME, self._remedy)

    def _publish(self, content: dict[str, Any]) -> None:
        """The moment at which the new indexes take the place of the old ones."""
        write_json(self.folder / INDEX_NAME, content)

    def tidy(self) -> None:
        """Remove what `index.json` doesn't name: replaced files, and those of a build that was killed."""
        try:
            entries = self.entries().values()
        except MemoryStoreError:
            return
        wanted = {entry.file for entry in entries} | {entry.rows_file for entry in entries} | {INDEX_NAME}
        for path in self.folder.glob("*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _entry(told: dict[str, Any]) -> KeyIndex:
    known = {item.name for item in fields(KeyIndex)}
    entry = KeyIndex(**{key: value for key, value in told.items() if key in known})
    if entry.kind not in KINDS:
        raise ValueError(f"kind {entry.kind!r}")
    example = KeyIndex("", 0, 0, 0, {}, {})
    for name in known:
        value, kind = getattr(entry, name), type(getattr(example, name))
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{name} {value!r}")
    return entry


def stored_rows(path: Path) -> tuple[IdArray, HalfRows]:
    """Sorted ids (m,) and the rows of a file of rows."""
    file = ArrayFile(path)
    rows = HalfRows(torch.from_numpy(file["rows"]), torch.from_numpy(file["scales"]), file)
    return file["ids"], rows


def checksum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushed(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path
