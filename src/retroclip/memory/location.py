"""Where a memory is: a folder, or a URL on object storage, whose few plain files go through Lance's own client."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lance
from lance.file import LanceFileSession

from retroclip.errors import MemoryStoreError
from retroclip.memory.predicate import without_noise

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Url:
    """A place on object storage, with as much of a Path's interface as a memory needs.

    Credentials and endpoints come from the environment, as for Lance: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, … There
    are no folders there: what is called one is the beginning of names. A file is put as a whole.
    """

    def __init__(self, text: str) -> None:
        self._text = text.rstrip("/")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Url({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self._text}/{name}")

    @property
    def name(self) -> str:
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        return Url(self._text.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is a file of this name."""
        with self._told():
            return bool(self._session().contains(self.name))

    def names(self) -> list[str]:
        """Names of all files below, relative to here."""
        with self._told():
            return list(LanceFileSession(self._text).list())

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content of a file. Raises FileNotFoundError where there is none."""
        with tempfile.TemporaryDirectory(prefix="retroclip-url-") as folder:
            path = Path(folder) / "file"
            self.download(path)
            return path.read_text(encoding=encoding)

    def write_text(self, text: str) -> None:
        with tempfile.TemporaryDirectory(prefix="retroclip-url-") as folder:
            path = Path(folder) / "file"
            path.write_text(text, encoding="utf-8")
            self.upload(path)

    def download(self, path: Path) -> None:
        """Copy this file to a local one. Raises FileNotFoundError where there is none."""
        if not self.exists():
            raise FileNotFoundError(self._text)
        with self._told():
            self._session().download_file(self.name, str(path))

    def upload(self, path: Path) -> None:
        """Put a local file here."""
        with self._told():
            self._session().upload_file(str(path), self.name)

    def unlink(self) -> None:
        """Remove this file; versions of Lance that can't leave it there."""
        session = self._session()
        if hasattr(session, "delete_file") and self.exists():
            with self._told():
                session.delete_file(self.name)

    def drop_table(self) -> None:
        """Remove the Lance table here, if there is one."""
        with self._told():
            lance.LanceDataset.drop(self._text, ignore_not_found=True)

    def _session(self) -> Any:
        return LanceFileSession(str(self.parent))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise MemoryStoreError(f"{self._text} can't be reached ({without_noise(error)[:300]})") from error


Location = Path | Url


def located(path: str | Path | Url) -> Location:
    """A text with a scheme (`s3://bucket/mem`) as Url, everything else as Path."""
    if isinstance(path, Url):
        return path
    return Url(str(path)) if isinstance(path, str) and _SCHEME.match(path) else Path(path)


def absolute(path: Location) -> str:
    """The path as text that is right from every folder; a URL as it is."""
    return str(path.resolve() if isinstance(path, Path) else path)


def local(path: Location, verb: str) -> Path:
    """The path. Raises MemoryStoreError for a URL: nobody can tell there who reads, nor exchange anything at once."""
    if isinstance(path, Url):
        raise MemoryStoreError(
            f"{path}: `memory {verb}` works on local memories only: make a copy of it by `memory export` and "
            "`memory create`"
        )
    return path


def cache_folder() -> Path:
    """Where files of remote memories are kept for the next time: RETROCLIP_CACHE, or below the user's caches."""
    named = os.environ.get("RETROCLIP_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "retroclip"
