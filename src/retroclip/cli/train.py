"""`retroclip train`"""

import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.terminal import say

POWER_OF_TEN = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 takes 1e-3 for a text


def train(
    recipe: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, help="`--set.field value`, as often as wanted.")],
    out: Path | None = None,
) -> None:
    """Pre-train a model with a recipe (YAML). Interrupted and repeated, it goes on from the last checkpoint.

    Parameters
    ----------
    recipe
        A recipe, such as `recipes/builtin.yaml`. Every field of it can be changed: `--set.lr 1e-3`.
    out
        Where the model goes. Default: as the recipe says.
    """
    overrides = parse_settings(settings)

    from retroclip.pretraining import train_and_record

    train_and_record(recipe, overrides, out=out, on_progress=say)


def parse_settings(tokens: tuple[str, ...], verb: str = "train") -> dict[str, Any]:
    """`--set.a.b 1 --set.c=x` → {"a.b": 1, "c": "x"}; values are YAML. WrongUsageError for anything else."""
    import yaml

    overrides: dict[str, Any] = {}
    waiting = iter(tokens)
    for token in waiting:
        name, equals, value = token.partition("=")
        if not name.startswith("--set.") or name == "--set.":
            raise WrongUsageError(f"{verb}: {token!r} is neither an option nor a setting (--set.field value)")
        if not equals:
            value = next(waiting, "")
            if not value or value.startswith("--set."):
                raise WrongUsageError(f"{verb}: {name} has no value")
        try:
            overrides[name.removeprefix("--set.")] = (
                float(value) if POWER_OF_TEN.fullmatch(value) else yaml.safe_load(value)
            )
        except yaml.YAMLError:
            raise WrongUsageError(f"{verb}: the value of {name} is not YAML: {value!r}") from None
    return overrides
