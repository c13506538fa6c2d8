"""docs/results.md holds what its generator makes of the stored results, and verdicts follow from the figures."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(REPOSITORY / "recipes"))
    yield importlib.import_module
    sys.path.remove(str(REPOSITORY / "recipes"))


def test_the_page_is_what_is_stored(recipe, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    page = recipe("page")
    text = page.PAGE.read_text()
    assert page.filled(text) == text, "write it anew: python recipes/page.py"
    assert {found["name"] for found in page.BLOCK.finditer(text)} == set(page.TABLES), "a table that nobody reads"
    assert len(page.BLOCK.findall(text)) == text.count("<!-- table:") == text.count("<!-- end -->")


def test_only_blocks_change_and_twice_is_once(recipe, monkeypatch):
    page = recipe("page")
    monkeypatch.setitem(page.TABLES, "icar", lambda *given: f"| {' '.join(given)} |")
    text = "before\n<!-- table: icar a b -->\nold\n<!-- end -->\nafter\n"
    made = page.filled(text)
    assert made == "before\n<!-- table: icar a b -->\n\n| a b |\n\n<!-- end -->\nafter\n" == page.filled(made)
    with pytest.raises(KeyError):
        page.filled("<!-- table: nothing -->\n<!-- end -->")


@pytest.mark.parametrize(
    ("interval", "says"), [((0.1, 2), "agrees"), ((-2, -0.1), "disagrees"), ((-1, 1), "no difference shown")]
)
def test_a_verdict_is_that_of_the_interval(recipe, interval, says):
    assert recipe("page_cells").verdict(*interval) == says


def test_orderings_name_variants_that_exist_and_are_read_from_the_record(recipe, monkeypatch, tmp_path):
    orderings, tables = recipe("orderings"), recipe("page_systems")
    order = orderings.ORDERINGS[0]
    rows = [
        {"group": order.group, "variant": name, "value": value, "sd": 0.01, "seeds": 3, "gain": 1.0, "interval": [0, 2],
         "memory": "in-domain", "memory_pairs": 10}
        for name, value in ((order.better, 0.8), (order.worse, 0.7))
    ]  # fmt: skip
    difference = {"group": order.group, "better": order.better, "worse": order.worse}
    record = {"task": "gtsrb", "n": 5, "split": "val", "metric": "top1", "templates": 1, "model": "m", "zero_shot": 0.5}
    record |= {"rows": rows, "orderings": [difference | {"difference": 10.0, "interval": [4.0, 16.0]}]}
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "gtsrb.json").write_text(json.dumps(record))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    line = tables.ablation_findings().splitlines()[2]
    assert line.endswith("| +10.0 (+4.0 to +16.0), agrees |") and order.paper in line
    assert "80.0 ± 1.0" in tables.ablations("search") and "Not measured" in tables.ablations("low-shot")


@pytest.mark.parametrize(("high", "says"), [(-3.1, "disagrees"), (3.1, "no difference shown")])
def test_a_reason_is_told_where_a_finding_fails(recipe, monkeypatch, tmp_path, high, says):
    orderings, tables = recipe("orderings"), recipe("page_systems")
    order = next(one for one in orderings.ORDERINGS if one.reason)
    found = {"group": order.group, "better": order.better, "worse": order.worse}
    found |= {"difference": -7.4, "interval": [-11.8, high]}
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "gtsrb.json").write_text(json.dumps({"task": "gtsrb", "rows": [], "orderings": [found]}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.ablation_findings().splitlines()
    assert lines[2].startswith(f"| {order.group}: {order.better} over {order.worse} | {order.paper} |")
    assert lines[2].endswith(f", {says} |")
    assert lines[3:] == (["", f"- {order.paper}: {order.reason}"] if says == "disagrees" else [])


def test_robustness_is_held_against_zero_shot(recipe, monkeypatch, tmp_path):
    orderings, tables = recipe("orderings"), recipe("page_systems")
    row = {"group": "random neighbours", "variant": "ra-clip, 50 % random", "gain": -7.4, "interval": [-11.8, -3.1]}
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "gtsrb.json").write_text(json.dumps({"task": "gtsrb", "rows": [row], "orderings": []}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    line = tables.ablation_findings().splitlines()[2]
    assert line.startswith(f"| random neighbours: {row['variant']} over zero-shot | {orderings.ROBUST} |")
    assert line.endswith(", disagrees |")


def test_every_ordering_is_about_variants_of_the_recipe(recipe):
    """Names alone: building a variant is what costs."""
    orderings, variants = recipe("orderings"), recipe("variants")

    class Memory:
        def ids(self):
            import numpy as np

            return np.arange(4)

        def take(self, ids, columns):
            import pyarrow as pa

            return pa.table({"captions": [["a rose"]] * len(ids)})

    from retroclip.methods import MethodContext
    from retroclip.tasks import Task

    context = MethodContext("encoder", Memory(), Task.load("flower-photos"), train="labelled images")
    makers = [variants.fusions, variants.memory_sizes, variants.random_neighbours]
    makers += [variants.retrievals, variants.tunings]
    makers += [partial(variants.low_shot, how=how) for how in ("linear probe", "fine-tuning")]
    there = [(v.group, v.name) for make in makers for v in make(context)]
    assert len(set(there)) == len(there)
    named = {(o.group, name) for o in orderings.ORDERINGS for name in (o.better, o.worse)}
    assert {(group, name) for group, name in named if name != orderings.ZERO_SHOT} <= set(there)
