"""Tables say what was measured, on what, and how sure it is."""

import csv
import io

from rich.console import Console

from retroclip.evaluation import Forgetting
from retroclip.report import csv_table, group, markdown_table, rich_table
from retroclip.report.figures import count, duration, interval_of, percent, points
from retroclip.report.notes import footnotes, notes_below
from retroclip.report.tables import side_metrics


def test_numbers():
    assert percent(0.8734) == "87.3"
    assert percent(None) == "–"
    assert (points(2.34), points(-2.34), points(None)) == ("+2.3", "−2.3", "–")
    assert (points(0.0), points(-0.04), points(0.06)) == ("0.0", "0.0", "+0.1")
    assert interval_of((0.1, 0.25)) == "10.0–25.0"
    assert interval_of((-1.2, 3.4), signed=True) == "−1.2 to +3.4"
    assert [duration(s) for s in (0.44, 9.96, 59.6, 125)] == ["0.4 s", "10.0 s", "60 s", "2 min 05 s"]
    assert [count(n) for n in (None, 0, 12345, 1_580_000)] == ["–", "0", "12,345", "1.58 M"]


def test_markdown(results):
    text = markdown_table(results)
    assert "pets on pets#val · n = 200 · model builtin · metric mean-per-class · template “a photo of a {}.”" in text
    assert "memory mem (5,000 pairs) · seeds 0, 1, 2" in text
    assert "| gated-image | 91.2 ± 0.4 | 88.2–94.2 | 92.2 | +41.2 | +38.0 to +44.1 | 3.0 s + 1.5 s | 10.65 M |" in text
    assert "| primed | 45.0 | 42.0–48.0 | 46.0 | −5.0 | −7.5 to −2.1 |" in text
    assert "ra-clip failed: no caption \\| at all [bold]" in text
    assert (
        "12 of the memory's pairs were left out as near-duplicates of evaluation images (cosine over 0.95, and alike"
        in text
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_a_reference_set_is_no_memory(make_result):
    text = markdown_table([make_result("zero-shot", 0.5, memory="reference set")])
    assert "· reference set (5,000 pairs)" in text and "memory" not in text
    assert "12 of the reference set's pairs were left out" in text


def test_what_tuning_forgets_is_told_with_a_remedy(make_result):
    elsewhere = {"task": "scenes", "dataset": "scenes#val", "metric": "top1", "n": 300, "base": 0.767, "value": 0.737}
    lost = Forgetting(**elsewhere, change=-3.0, interval=(-5.0, -1.0))
    rows = [make_result("zero-shot", 0.5), make_result("gated-image", 0.9, forgetting=[lost])]
    told = "gated-image elsewhere: scenes (scenes#val) 76.7 to 73.7, −3.0 points (−5.0 to −1.0)."
    assert notes_below(rows)[-2] == told and notes_below(rows)[-1].endswith("--methods '*-averaged'.")
    tried = [*rows, make_result("gated-image-averaged", 0.8)]
    assert notes_below(tried)[-1] == told
    rows[1].forgetting[0].interval = (-5.0, 0.2)
    assert "averaged" not in markdown_table(rows)


def test_top1_has_no_second_column_for_itself(make_result):
    text = markdown_table([make_result("zero-shot", 0.5, metric="top1", top1=0.5)])
    assert text.count("top1 |") == 1


def test_rich(results):
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(rich_table(results))
    text = console.export_text()
    for part in ("gated-image", "91.2 ± 0.4", "+38.0 to +44.1", "failed: no caption | at all [bold]", "1.5 s"):
        assert part in text


def test_csv(results):
    rows = list(csv.DictReader(io.StringIO(csv_table(results))))
    assert [row["method"] for row in rows] == ["zero-shot", "primed", "gated-image", "ra-clip"]
    assert float(rows[2]["value"]) == 0.912
    assert (float(rows[1]["gain_low"]), float(rows[1]["gain_high"])) == (-7.5, -2.1)
    assert rows[2]["seeds"] == "0 1 2"
    assert (rows[3]["value"], rows[3]["error"]) == ("", "no caption | at all [bold]")


def test_groups_keep_what_belongs_together(results, make_result):
    other = make_result("zero-shot", 0.3, memory="half-wrong", data_hash="feed")
    groups = group([*results[:2], other, *results[2:]])
    assert [[r.method for r in own] for own in groups] == [
        ["zero-shot", "primed", "gated-image", "ra-clip"],
        ["zero-shot"],
    ]


def test_retrieval_shows_every_recall_and_no_gain(make_result):
    recalls = {"i2t-recall@1": 0.2, "i2t-recall@10": 0.5, "t2i-recall@1": 0.18}
    result = make_result(
        "zero-shot", 0.2, task="image-text-retrieval", metric="i2t-recall@1", top1=None, metrics=recalls, memory=None
    )
    text = markdown_table([result])
    assert "| method | i2t-recall@1 | 95 % | i2t-recall@10 | t2i-recall@1 | seconds" in text
    assert "| zero-shot | 20.0 | 17.0–23.0 | 50.0 | 18.0 |" in text
    assert "gain" not in text.casefold()


def test_what_a_trained_model_is_compared_with_stands_below_the_table(make_result):
    result = make_result(
        "maskformer", 0.4, metric="miou", protocol="segmentation", top1=None,
        metrics={"miou": 0.4, "miou-novel": 0.3, "zero-shot-miou-novel": 0.25, "gain-miou-novel": 0.05},
        intervals={"miou-novel": (0.2, 0.4), "zero-shot-miou-novel": (0.2, 0.3), "gain-miou-novel": (-0.01, 0.11)},
    )  # fmt: skip
    assert side_metrics([result]) == ["miou-novel"]
    text = " ".join(footnotes([result]))
    assert "95 % intervals of the others: miou-novel 20.0–40.0." in text
    assert "zero-shot-miou-novel 25.0 (20.0–30.0), gain-miou-novel +5.0 (−1.0 to +11.0) points." in text
