"""What a memory says about itself: format, model, dimension, and how it was created."""

from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from retroclip.errors import MemoryStoreError
from retroclip.memory.disk import read_json, write_json
from retroclip.memory.location import Location, Url
from retroclip.version import __version__

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
UNFINISHED_NAME = "creation.json"  # on object storage, where nothing can be renamed when it is whole


@dataclass(slots=True)
class Manifest:
    """The text of `manifest.json`.

    `creation` are the parameters that decide the contents, so that a killed creation goes on only with the same ones;
    `counts` (read, duplicates) is filled when the creation ends. `id` is another one for each creation; in a memory
    from before there were ids it is the time of creation. `model` is what the model is called, and `model_reference`
    what it is loaded by on the machine that made the memory: by default the name.
    """

    model: str
    fingerprint: str
    dim: int
    creation: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    embedding_type: str = "float16"
    id: str = field(default_factory=lambda: uuid4().hex)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    retroclip: str = __version__
    format_version: int = FORMAT_VERSION
    model_reference: str = ""

    def __post_init__(self) -> None:
        self.model_reference = self.model_reference or self.model

    def save(self, directory: Location, name: str = MANIFEST_NAME) -> None:
        write_json(directory / name, asdict(self))

    @classmethod
    def load(cls, directory: Location, name: str = MANIFEST_NAME) -> "Manifest":
        """Raises MemoryStoreError where there is no memory, a damaged one, or one of a newer format."""
        try:
            content = read_json(directory / name)
        except (FileNotFoundError, NotADirectoryError):
            raise MemoryStoreError(_missing(directory)) from None
        kinds = {"format_version": int, "dim": int, "creation": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name, kind()), kind)]
        if wrong:
            raise MemoryStoreError(f"{directory / MANIFEST_NAME} is damaged ({wrong[0]}): create the memory again")
        if content.get("format_version", 0) > FORMAT_VERSION:
            raise MemoryStoreError(
                f"{directory} has format version {content['format_version']}, newer than this retroclip reads "
                f"({FORMAT_VERSION}): update retroclip"
            )
        content.setdefault("id", content.get("created"))
        creation = content.get("creation", {})
        if "store_images" in creation:  # before there were thumbnails
            creation["images"] = "store" if creation.pop("store_images") else "none"
        known = {item.name for item in fields(cls)}
        try:
            return cls(**{name: value for name, value in content.items() if name in known})
        except TypeError as error:
            raise MemoryStoreError(
                f"{directory / MANIFEST_NAME} is damaged ({error}): create the memory again"
            ) from None


def _missing(directory: Location) -> str:
    if isinstance(directory, Url):
        unfinished, exists = (directory / UNFINISHED_NAME).exists(), bool(directory.names())
    else:
        unfinished, exists = directory.with_name(directory.name + ".partial").is_dir(), directory.exists()
    if unfinished:
        return f"{directory} is not finished: run the same `retroclip memory create` again, it goes on where it stopped"
    if exists:
        return f"{directory} is not a memory (it has no {MANIFEST_NAME}): create one with `retroclip memory create`"
    return f"there is no memory at {directory}: create one with `retroclip memory create`"
