"""A tiny recipe over coloured squares: captions in one file, labels in another, WordNet of a dozen nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

NODES = [  # id, lemmas, hypernym, gloss
    ("00000001", ["entity"], None, "that which exists"),
    ("00000002", ["thing"], "00000001", "a separate entity"),
    ("00000003", ["whole", "unit"], "00000002", "an assemblage"),
    ("00000004", ["living_thing"], "00000003", "a living entity"),
    ("00000005", ["organism"], "00000004", "a living thing"),
    ("00000006", ["animal"], "00000005", "a living organism that moves"),
    ("00000007", ["bird"], "00000006", 'warm-blooded egg-layer with feathers; "birds sing"'),
    ("00000008", ["dog", "domestic_dog"], "00000006", "a member of the genus Canis"),
    ("01531178", ["red"], "00000007", "a red bird"),
    ("02084071", ["green"], "00000007", "a green bird"),
    ("02110341", ["blue"], "00000008", "a blue dog"),
    ("02012849", ["crane"], "00000007", "a large bird that wades"),
    ("03126707", ["crane"], "00000003", "a machine that lifts"),
]
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def noun_line(node: tuple[str, list[str], str | None, str]) -> str:
    id_, lemmas, hypernym, gloss = node
    words = " ".join(f"{lemma} 0" for lemma in lemmas)
    pointers = f"001 @ {hypernym} n 0000" if hypernym else "000"
    return f"{id_} 03 n {len(lemmas):02x} {words} {pointers} | {gloss}  "


@pytest.fixture(scope="session")
def wordnet(tmp_path_factory) -> Path:
    """A folder with `data.noun` and `index.noun` in WordNet's own format (wndb(5WN))."""
    folder = tmp_path_factory.mktemp("wordnet")
    (folder / "data.noun").write_text("  1 licence\n" + "\n".join(map(noun_line, NODES)) + "\n")
    senses = {lemma: id_ for id_, lemmas, _, _ in NODES for lemma in lemmas}
    lines = [f"{lemma} n 1 1 @ 1 0 {id_}  " for lemma, id_ in sorted(senses.items())]
    (folder / "index.noun").write_text("  1 licence\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory, make_pairs) -> Path:
    """A folder with captioned.parquet (24 rows) and labelled.parquet (18 rows of 3 classes)."""
    folder = tmp_path_factory.mktemp("squares")
    captioned, labelled = make_pairs(8), make_pairs(6, seed=1)
    columns = {"key": [p.key for p in captioned], "image": [p.image for p in captioned]}
    texts = {"caption": [p.caption for p in captioned], "captions": [list(p.captions) for p in captioned]}
    pq.write_table(pa.table(columns | texts), folder / "captioned.parquet")
    columns = {"key": [p.key for p in labelled], "image": [p.image for p in labelled]}
    columns["label"] = [p.captions[1].split()[1] for p in labelled]
    pq.write_table(pa.table(columns), folder / "labelled.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(squares, wordnet):
    """`tiny_recipe(folder, kind, **fields)`: a recipe's file in `folder`."""

    def write(folder: Path, kind: str = "formal-clip", **fields: Any) -> Path:
        recipe = {
            "kind": kind,
            "model": TINY,
            "data": str(squares),
            "work": str(folder / "work"),
            "out": str(folder / "model"),
            "sources": [
                {"name": "captioned", "file": "captioned.parquet", "share": 4},
                {"name": "labelled", "file": "labelled.parquet", "share": 3, "text": "labels"},
            ],
            "wordnet": str(wordnet),
            "cache_size": 24,
            "steps": 8,
            "precision": "fp32",
            "save_every": 2,
            "log_every": 1,
            "rand_augment": None,
            "drop_path": None,
        } | fields
        path = folder / f"{kind}.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write
