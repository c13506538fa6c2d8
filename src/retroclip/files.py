"""Files that appear under their name only when they are whole."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The path of an unfinished file beside `path`, which takes its name when the block ends without an error.

    Until then what stood under that name stays; after an error, such as a full disk, nothing is left but that. Of
    several processes that write the same file, the last one's stands. A link goes on pointing at its file, an earlier
    file's permissions stay, and a device or pipe (`/dev/stdout`), whose place nothing can take, is written itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    try:
        yield unfinished
        if target.exists():
            shutil.copymode(target, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, as `whole_file`; it is on the disk before it has its name."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        if unfinished.is_file():  # not a device or pipe
            with unfinished.open("rb+") as written:
                os.fsync(written.fileno())
