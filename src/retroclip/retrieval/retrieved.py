"""What retrieval hands on: pairs with the classes that found them, whole in memory or as a directory."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import full_disk_told, read_json
from retroclip.tasks import Task

if TYPE_CHECKING:
    from retroclip.encoders import Encoder

FORMAT_VERSION = 1
DESCRIPTION = "retrieved.json"
PAIRS = "pairs.parquet"


@dataclass
class Retrieved:
    """m pairs found for a task, by ascending row id.

    `classes` holds for each pair every class that found it, best first; `scores` (m,) the cosine for the best one, in
    the first of its `modes` ("t2t", "t2i"); `image_embeddings`, `text_embeddings` (m, d) float32 unit norm, a zero row
    for a pair without caption. `images` are still encoded; None where the memory stored none. `provenance` names the
    memory, model and settings and counts what was found and dropped. `cached` is where one tuning leaves what the next
    one would compute again from the same images; it is not saved.

    >>> retrieve(memory, task, k=3).save("found")
    >>> Retrieved.load("found").task.name
    'pets'
    """

    task: Task
    ids: npt.NDArray[np.int64]
    keys: list[str]
    captions: list[tuple[str, ...]]
    images: list[bytes | None]
    classes: list[tuple[int, ...]]
    scores: npt.NDArray[np.float32]
    modes: list[tuple[str, ...]]
    image_embeddings: torch.Tensor
    text_embeddings: torch.Tensor
    sources: list[str] = field(default_factory=list)
    licenses: list[str | None] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    cached: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def label(self) -> torch.Tensor:
        """The best class of each pair, int64 (m,)."""
        return torch.tensor([own[0] for own in self.classes], dtype=torch.int64)

    def seen_by(self, encoder: Encoder) -> Retrieved:
        """The same pairs with the image embeddings that another model of this width gives them.

        Raises MemoryStoreError where the memory kept no image of a pair.
        """
        images = [image for image in self.images if image is not None]
        if len(images) < len(self):
            raise MemoryStoreError(
                f"{len(self) - len(images)} of the {len(self)} retrieved pairs have no stored image to embed: make "
                "the memory with --images store or thumbnail"
            )
        return replace(self, image_embeddings=encoder.encode_images(images), cached={})

    def save(self, directory: str | Path) -> None:
        """Write `pairs.parquet` and `retrieved.json` to `directory`, whole; an earlier result is replaced.

        Raises MemoryStoreError when something else is there, or the disk is full.
        """
        target = Path(directory)
        if target.exists() and not (target / DESCRIPTION).exists() and (target.is_file() or any(target.iterdir())):
            raise MemoryStoreError(f"{target} exists and holds no retrieved pairs: choose another name")
        partial = target.with_name(target.name + ".partial")
        with full_disk_told(partial, "free some space and retrieve again"):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            pq.write_table(self._table(), partial / PAIRS, compression="zstd")
            description = {
                "format_version": FORMAT_VERSION,
                "task": self.task.model_dump(mode="json"),
                "provenance": self.provenance,
            }
            (partial / DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)

    @classmethod
    def load(cls, directory: str | Path) -> Retrieved:
        """The pairs that `save` wrote. Raises MemoryStoreError where there are none, or damaged ones."""
        folder = Path(directory)
        try:
            description = read_json(folder / DESCRIPTION)
            table = pq.read_table(folder / PAIRS)
        except (FileNotFoundError, NotADirectoryError):
            raise MemoryStoreError(f"{folder} holds no retrieved pairs: make some with `retroclip retrieve`") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise MemoryStoreError(f"{folder / PAIRS} is damaged ({error}): retrieve again") from error
        if description.get("format_version", 0) > FORMAT_VERSION:
            raise MemoryStoreError(f"{folder} was written by a newer retroclip: update retroclip")
        columns = {name: table[name] for name in table.column_names}
        try:
            return cls._of(description, columns)
        except KeyError as error:
            raise MemoryStoreError(f"{folder} is damaged (it has no {error}): retrieve again") from error

    @classmethod
    def _of(cls, description: dict[str, Any], columns: dict[str, pa.ChunkedArray]) -> Retrieved:
        return cls(
            task=Task.model_validate(description["task"]),
            ids=columns["id"].to_numpy(),
            keys=columns["key"].to_pylist(),
            captions=[tuple(own) for own in columns["captions"].to_pylist()],
            images=columns["image"].to_pylist(),
            classes=[tuple(own) for own in columns["classes"].to_pylist()],
            scores=columns["score"].to_numpy(),
            modes=[tuple(own) for own in columns["modes"].to_pylist()],
            image_embeddings=_matrix(columns["image_embedding"]),
            text_embeddings=_matrix(columns["text_embedding"]),
            sources=columns["source"].to_pylist(),
            licenses=columns["license"].to_pylist(),
            provenance=description["provenance"],
        )

    def _table(self) -> pa.Table:
        texts = pa.string()
        return pa.table(
            {
                "id": pa.array(self.ids, pa.int64()),
                "key": pa.array(self.keys, texts),
                "image": pa.array(self.images, pa.large_binary()),
                "captions": pa.array([list(own) for own in self.captions], pa.list_(texts)),
                "source": pa.array(self.sources or [""] * len(self), texts),
                "license": pa.array(self.licenses or [None] * len(self), texts),
                "classes": pa.array([list(own) for own in self.classes], pa.list_(pa.int64())),
                "score": pa.array(self.scores, pa.float32()),
                "modes": pa.array([list(own) for own in self.modes], pa.list_(texts)),
                "image_embedding": _vectors(self.image_embeddings),
                "text_embedding": _vectors(self.text_embeddings),
            }
        )


def _vectors(rows: torch.Tensor) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).numpy()), rows.shape[1])


def _matrix(column: pa.ChunkedArray) -> torch.Tensor:
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return torch.from_numpy(values.astype(np.float32).reshape(-1, width))
