"""What may stand under one another, and what each row is called."""

import csv
import io
import json
import re

import pytest

from retroclip.report import (
    csv_table,
    group,
    markdown_table,
    overview,
    plots,
    render,
    rich_table,
    row_labels,
    tell_apart,
)
from retroclip.report.files import as_markdown
from retroclip.report.html import Report, bar_of, make_section
from retroclip.report.notes import footnotes
from retroclip.report.tables import caption

BOXES = {"task": "blood", "dataset": "blood", "protocol": "detection", "metric": "ap50", "memory": None, "top1": None}
BOXES |= {"memory_pairs": None, "excluded_near_duplicates": None, "near_threshold": None}
GRID, TRUTH = {"proposals": "grid", "detections": 7}, {"proposals": "truth", "detections": 9}


@pytest.fixture
def boxes(make_result):
    """Detection on a grid and on true boxes, a detector of two seeds, and AP of regions: all of one task and data."""
    return [
        make_result("zero-shot", 0.01, **BOXES, options=GRID, metrics={"ap50": 0.01, "ap": 0.002}),
        make_result("zero-shot", 0.3, **BOXES, options=TRUTH, baseline="chance", baselines={"ap50": 0.09}),
        *(make_result("open-vocabulary", 0.05 + s / 100, **BOXES, options={"proposals": "network"}, seed=s)
          for s in (0, 1)),
        make_result("zero-shot", 0.89, **BOXES | {"protocol": "regions", "metric": "ap"}),
    ]  # fmt: skip


def names(groups):
    return [[f"{r.method} {r.value}" for r in own] for own in groups]


def test_protocols_and_metrics_have_tables_of_their_own(boxes):
    detection, regions = group(boxes)
    assert {r.protocol for r in detection} == {"detection"} and [r.value for r in regions] == [0.89]
    assert "· detection ·" in caption(detection) and "· regions ·" in caption(regions)


def test_rows_of_one_method_are_told_apart_by_their_settings(boxes):
    detection, regions = group(boxes)
    assert row_labels(detection) == [
        "zero-shot, proposals grid", "zero-shot, proposals truth",
        "open-vocabulary, proposals network, seed 0", "open-vocabulary, proposals network, seed 1",
    ]  # fmt: skip
    assert row_labels(regions) == ["zero-shot"]
    text = markdown_table(detection)
    assert "| zero-shot, proposals truth | 30.0 |" in text
    notes = footnotes(detection)
    assert "zero-shot, proposals truth: Baseline, chance: ap50 9.0." in notes
    assert any("none of them is called the best" in note for note in notes)
    assert "bold" not in {row.style for row in rich_table(detection).rows}
    assert "bold" in {row.style for row in rich_table(regions).rows}


def test_smoothing_and_denoising_are_named(make_result):
    off, on = {"smoothing": False, "denoising": 0.0, "size": 288}, {"smoothing": True, "denoising": 0.0, "size": 288}
    pixels = BOXES | {"protocol": "segmentation", "metric": "miou"}
    own = [make_result("zero-shot", 0.1 + i / 10, **pixels, options=options) for i, options in enumerate((off, on))]
    assert row_labels(own) == ["zero-shot, no smoothing", "zero-shot, smoothing"]


def test_files_are_called_by_their_names(make_result):
    sources = [
        {"proposals": "/a/rpn.json", "train": "/a/x.parquet#train"},
        {"proposals": "grid", "train": "/a/y.parquet"},
    ]
    own = [make_result("zero-shot", 0.1 + i / 10, **BOXES, options=options) for i, options in enumerate(sources)]
    assert row_labels(own)[0] == "zero-shot, proposals rpn.json, train x.parquet#train"


def test_each_bar_belongs_to_its_own_row(boxes):
    section = make_section(group(boxes)[0])
    assert section.bars == [bar_of(result, section.axis) for result in boxes[:4]]
    assert section.base is None and not section.crowned
    page = render(Report(results=boxes))
    dots = [float(left) for left in re.findall(r'class="dot" style="left:([\d.]+)%', page)]
    own = [bar.value for part in group(boxes) for bar in make_section(part).bars]
    assert dots == own and len(set(dots)) == 5
    assert "the best method" not in page and 'class="best"' not in page[: page.index("regions")]


def test_shots_have_tables_of_their_own_beside_what_learns_from_none(make_result):
    def probe(shots, value):
        options = {"shots": shots, "train": "pets#train", "train_hash": "aa"}
        return make_result("linear-probe", value, options=options)

    first, again = make_result("zero-shot", 0.5), make_result("zero-shot", 0.5, date="later", fit_seconds=9.0)
    groups = group([first, probe(5, 0.6), again, probe(16, 0.7)])
    assert names(groups) == [["zero-shot 0.5", "linear-probe 0.6"], ["zero-shot 0.5", "linear-probe 0.7"]]
    assert "5 shots of pets#train" in caption(groups[0]) and "16 shots of pets#train" in caption(groups[1])
    table = overview([first, probe(5, 0.6), again, probe(16, 0.7)])
    assert [column.name for column in table.columns] == [
        "pets (mean-per-class, 5 shots)",
        "pets (mean-per-class, 16 shots)",
    ]
    assert len(table.cells) == 4


def test_another_fingerprint_or_other_data_of_the_same_name_is_told(make_result):
    own = [make_result("zero-shot", 0.5, top1=0.1), make_result("zero-shot", 0.6, fingerprint="other123")]
    own.append(make_result("zero-shot", 0.7, data_hash="beef"))
    groups = group(own)
    assert len(groups) == 3
    assert tell_apart(groups) == [
        ["fingerprint abc123", "data hash feed"],
        ["fingerprint other123", "data hash feed"],
        ["fingerprint abc123", "data hash beef"],
    ]
    text = as_markdown(own)
    assert "model builtin · fingerprint other123" in text and "data hash beef" in text
    page = render(Report(results=own))
    assert "fingerprint other123" in page
    table = overview(own)
    assert len(table.cells) == 3 and ("builtin other123", "zero-shot") in table.rows
    assert tell_apart(group(own[:1])) == [[]]


def test_no_result_wins_silently(make_result):
    """Neither in a table nor side by side: another k, other templates, another day."""
    own = [
        make_result("tip-adapter", 0.5, options={"k": 16}),
        make_result("tip-adapter", 0.6, options={"k": 32}),
        make_result("tip-adapter", 0.7, options={"k": 32}, templates=["a {}."]),
        make_result("tip-adapter", 0.8, options={"k": 32}, templates=["a {}."], date="2026-01-01"),
        make_result("tip-adapter", 0.9, options={"k": 32}, templates=["a {}."], date="2026-01-01"),
        make_result("tip-adapter", 0.4, options={"k": 16}, task="cars", dataset="cars"),
    ]  # fmt: skip
    labels = row_labels(own[:5])
    assert len(set(labels)) == 5 and labels[0] == "tip-adapter, k 16, template “a photo of a {}.”"
    assert labels[3] == "tip-adapter, k 32, template “a {}.”, 2026-01-01 (1)"
    table = overview(own)
    assert sorted(cell.value for cell in table.cells.values()) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert len(set(table.rows)) == len(table.rows)


def test_rows_with_and_without_descriptions_are_told_apart(make_result):
    plain = ["a photo of a {}.", "a {}."]
    own = [make_result("zero-shot", 0.5, templates=plain)]
    own += [make_result("zero-shot", 0.6, templates=["a photo of a {}, {description}.", "a {}, {description}."])]
    assert row_labels(own) == ["zero-shot, 2 templates", "zero-shot, 2 templates with descriptions"]


def test_an_overview_mixes_neither_protocols_nor_settings(boxes, make_result):
    far = make_result("zero-shot", 0.2, **BOXES | {"task": "coco", "dataset": "coco"}, options=TRUTH)
    table = overview([*boxes, far])
    assert [column.name for column in table.columns] == [
        "blood (ap50, detection)",
        "blood (ap, regions)",
        "coco (ap50, detection)",
    ]
    cells = {(table.rows[row][1], column): cell.value for (row, column), cell in table.cells.items()}
    assert cells["zero-shot, proposals grid", 0] == 0.01
    assert cells["zero-shot, proposals truth", 0] == 0.3 and cells["zero-shot, proposals truth", 2] == 0.2
    assert cells["zero-shot", 1] == 0.89 and len(cells) == 6


def test_protocols_have_no_common_mean(make_result):
    clean = make_result("zero-shot", 0.9, metric="top1")
    attacked = make_result("zero-shot", 0.4, metric="attacked-top1", protocol="typographic-attack")
    table = overview([clean, attacked])
    assert table.shared == [] and table.mean(0) is None
    assert [cell.value for cell in table.cells.values()] == [0.9, 0.4]
    assert "top1" in markdown_table(group([clean, attacked])[1]).splitlines()[2]


def test_memories_are_columns_where_one_model_has_several(make_result):
    own = [make_result(m, v, memory=name) for name, v in (("good", 0.8), ("bad", 0.3)) for m in ("zero-shot", "primed")]
    table = overview(own)
    assert [c.name for c in table.columns] == [
        "pets (mean-per-class, memory good)",
        "pets (mean-per-class, memory bad)",
    ]
    assert len(table.cells) == 4 and len(table.rows) == 2
    models = [make_result("primed", v, model=m, fingerprint=m, memory=f"of-{m}", task=t, dataset=t)
              for m, v in (("a", 0.5), ("b", 0.6)) for t in ("pets", "cars")]  # fmt: skip
    both = overview(models)
    assert [c.name for c in both.columns] == [f"{t} (mean-per-class, memory of-a or of-b)" for t in ("pets", "cars")]
    assert both.rows == [("a", "primed"), ("b", "primed")] and both.mean(1) == pytest.approx(0.6)


def test_what_reads_no_memory_stands_beside_what_does(make_result):
    bare = {"memory": None, "memory_pairs": None, "excluded_near_duplicates": None, "near_threshold": None}
    own = [make_result("zero-shot", 0.5, **bare), make_result("primed", 0.6)]
    assert names(group(own)) == [["zero-shot 0.5", "primed 0.6"]]
    assert row_labels(own) == ["zero-shot", "primed"]
    assert "memory mem (5,000 pairs)" in caption(own) and "12 of the memory's pairs" in footnotes(own)[1]


def test_models_made_for_the_same_task_twice_both_stay(make_result):
    bare = {"protocol": "regions", "metric": "ap", "task": "blood", "dataset": "blood"}
    own = [make_result("primed", 0.1 + i / 10, **bare, fingerprint=f"{i}" * 16) for i in range(3)]
    table = overview([*own, make_result("primed", 0.9, **bare | {"task": "coco"})])
    assert sorted(cell.value for cell in table.cells.values()) == pytest.approx([0.1, 0.2, 0.3, 0.9])


def test_models_stand_in_their_headings(make_result):
    own = [make_result("zero-shot", 0.5), make_result("zero-shot", 0.6, model="other")]
    page = render(Report(results=own))
    assert "model builtin</span></h2>" in page and "model other</span></h2>" in page
    assert "model builtin</span></h2>" not in render(Report(results=own[:1]))


def test_figures_over_no_class_are_dashes(make_result):
    nan = float("nan")
    result = make_result("zero-shot", 0.5, **BOXES, metrics={"ap50-novel": nan}, intervals={"ap50-novel": (nan, nan)})
    assert "nan" not in markdown_table([result]) and "ap50-novel" in markdown_table([result])
    assert "nan" not in csv_table([result])


def test_the_dots_of_an_overview_lie_beside_each_other(boxes):
    table = overview(boxes)
    places, ticks = plots.overview_places(table)
    assert sorted(places.values()) == [0, 1, 2, 3, 5] and ticks == [1.5, 5]
    assert "zero-shot, proposals truth" in plots.plot_overview(table)


def test_csv_has_every_metric_baseline_option_and_template(boxes, make_result):
    recall = make_result(
        "zero-shot", 0.2, metric="i2t-recall@1", metrics={"i2t-recall@1": 0.2, "t2i-recall@5": 0.4},
        intervals={"t2i-recall@5": (0.3, 0.5)}, options={"captions": 5, "suite": {"files": ["x"]}},
        templates=["a {}", "b {}"], top1_interval=(0.1, 0.3), seed=3,
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(csv_table([*boxes, recall]))))
    assert rows[0]["ap"] == "0.002" and rows[1]["baseline_ap50"] == "0.09" and rows[1]["baseline"] == "chance"
    assert rows[5]["t2i-recall@5"] == "0.4" and rows[0]["t2i-recall@5"] == ""
    assert (rows[5]["t2i-recall@5_low"], rows[5]["t2i-recall@5_high"]) == ("0.3", "0.5")
    assert (rows[5]["top1_low"], rows[5]["seed"]) == ("0.1", "3")
    assert json.loads(rows[5]["templates"]) == ["a {}", "b {}"] and json.loads(rows[5]["options"]) == {"captions": 5}
    assert json.loads(rows[1]["options"]) == TRUTH and rows[1]["protocol"] == "detection"
    assert (rows[5]["value"], rows[5]["low"]) == ("0.2", str(0.2 - 0.03))
