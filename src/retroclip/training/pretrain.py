"""Run a pre-training recipe: a YAML file whose `kind` says what it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from retroclip.errors import RetroclipError
from retroclip.training.builtin import BuiltinRecipe, train_builtin
from retroclip.training.distributed import start
from retroclip.training.loop import History
from retroclip.training.pretraining import FormalClipRecipe, IcarRecipe, RaClipRecipe, pretrain

Recipe = BuiltinRecipe | FormalClipRecipe | IcarRecipe | RaClipRecipe
KINDS: dict[str, tuple[type[Any], Callable[..., History]]] = {
    "builtin": (BuiltinRecipe, train_builtin),
    "formal-clip": (FormalClipRecipe, pretrain),
    "icar": (IcarRecipe, pretrain),
    "ra-clip": (RaClipRecipe, pretrain),
}


def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None, out: Path | None = None) -> Recipe:
    """The recipe in `path` with single fields replaced ("a.b" reaches inside). Raises RetroclipError for a bad one."""
    file = Path(path)
    if not file.is_file():
        raise RetroclipError(f"{file}: no such recipe")
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RetroclipError(f"{file}: not YAML ({str(error).splitlines()[0]})") from None
    for name, value in (overrides or {}).items() if isinstance(fields, dict) else ():
        try:
            _replace(fields, name, value)
        except (AttributeError, IndexError, TypeError, ValueError):
            raise RetroclipError(f"{file}: there is no field {name!r} to set") from None
    if not isinstance(fields, dict) or str(fields.get("kind")) not in KINDS:
        raise RetroclipError(f"{file}: a recipe has a field `kind`, one of {', '.join(KINDS)}")
    if out is not None:
        fields["out"] = out
    fields = {str(name): value for name, value in fields.items()}
    try:
        return KINDS[fields["kind"]][0](**fields)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RetroclipError(f"{file}: {place}: {first['msg']}") from None


def _replace(fields: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    place: Any = fields
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value


def run_recipe(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    out: Path | None = None,
    on_progress: Callable[[str], None] = print,
) -> History:
    """Train what the recipe describes; killed and run again, it goes on from its last checkpoint."""
    recipe = read_recipe(path, overrides, out)
    start()
    return KINDS[recipe.kind][1](recipe, on_progress)
