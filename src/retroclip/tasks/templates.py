"""Template sets that several tasks share, by name."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml

DESCRIPTION = ", {description}"


@cache
def template_sets() -> dict[str, list[str]]:
    """Name → templates; `imagenet` is the 80 of CLIP and of RA-CLIP's Figure 1."""
    text = files("retroclip.tasks").joinpath("templates.yaml").read_text(encoding="utf-8")
    sets = yaml.load(text, Loader=yaml.BaseLoader)
    return {name: list(templates) for name, templates in sets.items()}


def named_templates(text: str) -> list[str]:
    """A set by its name; a text with {} is a template itself.

    Raises:
        ValueError: neither.
    """
    if "{}" in text:
        return [text]
    if text not in template_sets():
        raise ValueError(f"no template set {text!r}; there are {', '.join(template_sets())}, or write a list")
    return list(template_sets()[text])


def asks_description(template: str) -> bool:
    """Whether a description follows the name in a template."""
    return DESCRIPTION in template


def asks_oddly(template: str) -> bool:
    """Whether a template asks for a description in a way that could not be left out for a class without."""
    return "{description}" in template.replace(DESCRIPTION, "")


def described_template(template: str) -> str:
    """ "a photo of a {}." → "a photo of a {}, {description}." """
    if asks_description(template):
        return template
    bare = template.rstrip(".")
    return f"{bare}{DESCRIPTION}{template[len(bare) :]}"


def filled(template: str, name: str, description: str) -> str:
    """A template with a name, and where it asks for one a description, which ends it without a full stop."""
    if asks_description(template):
        template = template.rstrip(".") if description else template
        template = template.replace(DESCRIPTION, f", {description}" if description else "")
    return template.replace("{}", name)
