"""A reader of WordNet 3.0's own noun file (`data.noun`, Debian: wordnet-base): names, glosses and hypernyms.

The file's format is wndb(5WN). NLTK ships the same file; `wn` reads another format, so a parser of one file it is.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from retroclip.errors import SourceError


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning: `id` is the ImageNet form (n01440764), `lemmas` its names, most usual first, `hypernyms` ids."""

    id: str
    lemmas: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]


def parse_noun(line: str) -> Synset:
    """One line of `data.noun` → its synset. The gloss loses its examples, which start at the first `; "`."""
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    words = int(fields[3], 16)
    lemmas = tuple(field.replace("_", " ") for field in fields[4 : 4 + 2 * words : 2])
    pointers = fields[5 + 2 * words :]
    hypernyms = tuple(
        f"n{target}"
        for symbol, target, _, _ in zip(*[iter(pointers[: 4 * int(fields[4 + 2 * words])])] * 4, strict=True)
        if symbol in ("@", "@i")
    )
    return Synset(f"n{fields[0]}", lemmas, gloss.split('; "')[0].strip(), hypernyms)


def read_nouns(path: str | Path) -> dict[str, Synset]:
    """All noun synsets by id, in the file's order. `path`: `data.noun` or the folder that holds it."""
    with noun_file(path).open(encoding="utf-8") as lines:
        synsets = (parse_noun(line) for line in lines if not line.startswith("  "))
        return {synset.id: synset for synset in synsets}


def noun_file(path: str | Path) -> Path:
    """The file of all nouns: `data.noun` or the folder that holds it. Raises SourceError where it isn't."""
    file = Path(path)
    file = file / "data.noun" if file.is_dir() else file
    if not file.is_file():
        raise SourceError(f"{file}: no WordNet noun file here (Debian's package wordnet-base has it)")
    return file


def read_senses(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Noun → ids of its synsets, most usual sense first, from `index.noun` (or the folder that holds it)."""
    file = Path(path)
    file = file / "index.noun" if file.is_dir() else file.with_name("index.noun")
    if not file.is_file():
        raise SourceError(f"{file}: no WordNet noun index here (Debian's package wordnet-base has it)")
    senses = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("  "):
                fields = line.split()
                senses[fields[0].replace("_", " ")] = tuple(f"n{offset}" for offset in fields[-int(fields[2]) :])
    return senses


def synset_of(name: str, senses: dict[str, tuple[str, ...]], concrete: Container[str]) -> str | None:
    """The synset a class name means: its first sense among `concrete` ids, else None ("seal" is the animal then).

    Of a name of several words that isn't in WordNet, the last word is looked up ("aquarium fish" is a fish).
    """
    name = name.casefold()
    while name:
        for form in (name, name.removesuffix("s")):
            found = next((sense for sense in senses.get(form, ()) if sense in concrete), None)
            if found is not None:
                return found
        name = name.partition(" ")[2]
    return None


def ancestors(synset: str, synsets: dict[str, Synset]) -> list[str]:
    """The path from the root ("entity") down to `synset`, itself last, by each node's first hypernym."""
    path = [synset]
    while synsets[path[-1]].hypernyms:
        path.append(synsets[path[-1]].hypernyms[0])
    return path[::-1]
