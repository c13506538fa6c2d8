"""Indexes of a memory on object storage: kept there, and searched from copies in a local cache."""

import hashlib
import os
from typing import Any

from retroclip.memory.disk import read_json, write_json
from retroclip.memory.index import INDEX_FOLDER, INDEX_NAME, IndexFolder, KeyIndex, checksum_of
from retroclip.memory.location import Location, Url, cache_folder


class RemoteIndexFolder(IndexFolder):
    """An IndexFolder whose files are fetched when they are opened, and put after they are built; checksums decide."""

    def __init__(self, url: Url) -> None:
        super().__init__(cache_folder() / "memories" / hashlib.sha256(str(url).encode()).hexdigest()[:24])
        self._memory, self._url = url, url / INDEX_FOLDER

    def _description(self) -> dict[str, Any]:
        return read_json(self._url / INDEX_NAME, self._remedy)

    def problem(self, entry: KeyIndex) -> str | None:
        for name, checksum in ((entry.file, entry.sha256), (entry.rows_file, entry.rows_sha256)):
            path = self.folder / name
            if not name or (path.is_file() and checksum_of(path) == checksum):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            fetched = path.with_name(f"{name}.{os.getpid()}.tmp")
            try:
                (self._url / name).download(fetched)
                fetched.replace(path)
            except FileNotFoundError:
                return f"{self._url / name}, which {INDEX_NAME} names, is missing: {self._remedy}"
            finally:
                fetched.unlink(missing_ok=True)
        return super().problem(entry)

    def _publish(self, content: dict[str, Any]) -> None:
        named = {entry[key] for entry in content["keys"].values() for key in ("file", "rows_file")}
        present = set(self._url.names())
        for name in sorted(named - present):
            (self._url / name).upload(self.folder / name)
        write_json(self._url / INDEX_NAME, content)
        for name in present - named - {INDEX_NAME}:
            (self._url / name).unlink()


def open_indexes(location: Location) -> IndexFolder:
    """The stored indexes of a memory, wherever it is."""
    return RemoteIndexFolder(location) if isinstance(location, Url) else IndexFolder(location)
