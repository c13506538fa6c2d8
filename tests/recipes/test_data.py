"""What CONTRIBUTING.md says of the data that recipes read."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = {"pyarrow", "memory", "metadata_0"}
"""A module, the samples that ship, and what `memories.py` writes itself."""


def test_every_file_that_a_recipe_reads_is_described(memories):
    recipes = [path for path in (ROOT / "recipes").glob("*.*") if path.name != "make_samples.py"]
    named = {name for path in recipes for name in re.findall(r"(\w+)\.parquet\b", path.read_text(encoding="utf-8"))}
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("## Make the data that recipes read")[2].partition("\n## ")[0]
    read = {*named, *memories.GENERAL, *memories.TASKS.values()} - OTHERS
    assert sorted(name for name in read if f"`{name}`" not in section) == []
