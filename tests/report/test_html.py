"""The page: whole, escaped, self-contained."""

import io
import re
from html.parser import HTMLParser

from PIL import Image

from retroclip.evaluation.result import Forgetting
from retroclip.report import Example, MemorySummary, Report, RetrievedClass, ShownPair, render, write_report
from retroclip.report.evidence import SourceSummary
from retroclip.report.html import axis_of, bar_of, make_section, settings, thumbnail

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "path", "use", "rect", "line"}


def an_image(size=(600, 300)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


class Balance(HTMLParser):
    """Checks that every tag that is opened is closed in order, and collects what is loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href") and tag != "use"]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def full_report(results):
    pair = ShownPair(an_image(), f"caption {EVIL}", 0.9, f"source {EVIL}")
    examples = [
        Example(an_image(), "k1", "cat", f"dog {EVIL}", 0.4, "cat", 0.9, [pair, ShownPair(None, "", 0.1)]),
        Example(b"broken", "k2", "dog", "dog", 0.4, "cat", 0.9, []),
    ]
    results[2].forgetting = [
        Forgetting(
            task="scenes", dataset="s#val", metric="top1", n=300, base=0.8, value=0.76, change=-4, interval=(-6, -2)
        )
    ]
    results[0].per_class[f"class {EVIL}"] = 0.5
    results[2].per_class[f"class {EVIL}"] = 0.9
    return Report(
        results=results,
        title=f"Title {EVIL}",
        introduction=f"Introduction {EVIL}",
        examples=examples,
        examples_method="gated-image",
        retrieved=[RetrievedClass(f"cat {EVIL}", 7, [pair]), RetrievedClass("dog", 0, [])],
        memories=[MemorySummary("mem", 5000, 5000, [SourceSummary(f"s {EVIL}", 5000, 4000, 1000, ["CC0"])])],
        notes=[f"note {EVIL}"],
    )


def test_page_is_balanced_escaped_and_loads_nothing(results):
    page = render(full_report(results))
    assert EVIL not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 8
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert balance.loads
    assert all(value.startswith("data:image/jpeg;base64,") for value in balance.loads)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#", "", page)


def test_page_says_what_the_issue_asks_for(results):
    page = render(full_report(results))
    for part in (
        "91.2 ± 0.4", "+38.0 to +44.1", "10.65 M", "failed: no caption", "What customization forgets", "−4.0",
        "What the memory contained", "20.0 % with a caption that names a class", "Helped", "Hurt", "Retrieved pairs",
        "training loss", "gain in accuracy, points", "abc123", "a photo of a {}.", "Versions", "0, 1, 2", "feed",
    ):  # fmt: skip
        assert part in page, part


def test_names_are_not_said_twice(results):
    for result in results:
        result.task, result.dataset, result.split, result.memory = "things", "things", "all", "memory"
    page = render(full_report(results))
    assert '<h2>things <span class="muted">memory</span></h2>' in page
    assert "<summary>things · n = 200" in page and "memory (5,000 pairs)" in page


def test_a_task_that_a_memory_improved_is_explained(results):
    def other(change):
        return Forgetting(
            task="scenes", dataset="s#all", metric="top1", n=9, base=0.8, value=0.8, change=change, interval=(-6, 6)
        )

    told = "can improve it instead"
    results[2].forgetting = [other(-4)]
    page = render(Report(results=results))
    assert told not in page and "<td>s</td>" in page
    results[2].forgetting.append(other(4))
    assert told in render(Report(results=results))


def test_a_gain_is_coloured_when_its_interval_lies_above_zero(results):
    assert '<div class="card gain"><b>+41.2' in render(Report(results=results))
    results[2].gain_interval = (-1.0, 80.0)
    assert '<div class="card"><b>+41.2' in render(Report(results=results))


def test_plots_and_names_stay_readable_on_a_narrow_screen(results):
    page = render(Report(results=results))
    assert page.count('<figure class="plot">') == 2
    assert ".plot { overflow-x: auto; }" in page and "min-width: 520px" in page
    assert "td:not(.num, .axis, [colspan]) { min-width: 6.5rem; }" in page


def test_results_alone_make_a_page(results, tmp_path):
    path = write_report(Report(results=results[:1], title="Mine"), tmp_path / "deep" / "r.html")
    assert "<h1>Mine</h1>" in path.read_text()
    assert [item.name for item in path.parent.iterdir()] == ["r.html"]
    write_report(Report(results=results[3:]), path)
    assert "failed" in path.read_text()
    assert "Nothing" not in render(Report(results=[]))


def test_columns_that_nothing_fills_are_left_out(results, make_result):
    whole = render(Report(results=results))
    assert "gain, points</th>" in whole and "trained<br>parameters" in whole and "What a memory gains" in whole
    alone = render(Report(results=[make_result("zero-shot", 0.5, memory=None, memory_pairs=None)]))
    assert "gain, points</th>" not in alone and "over control" not in alone and "trained<br>" not in alone
    assert "<h1>Results</h1>" in alone and "dashed line" not in alone and "standard deviation" not in alone
    # As many cells in a row as there are headings, in the failed row too.
    for page in (whole, alone):
        table = page[page.index('<table class="results">') :]
        head, *rows = table[: table.index("</table>")].split("<tr")[1:]
        cells = [row.count("<td") + sum(int(n) - 1 for n in re.findall(r'colspan="(\d+)"', row)) for row in rows]
        assert set(cells) == {head.count("<th ") + head.count("<th>")}


def test_axis_and_bars(make_result):
    low, high = make_result("a", 0.44), make_result("b", 0.77)
    assert axis_of([low, high]) == (0.4, 0.8)
    bar = bar_of(high, (0.4, 0.8))
    assert (bar.value, bar.low, bar.high) == (92.5, 85.0, 100.0)
    whole = make_result("c", 1.0, interval=(1.0, 1.0))
    assert axis_of([whole]) == (0.9, 1.0)
    assert axis_of([make_result("d", 0.0, interval=(0.0, 0.0))]) == (0.0, 0.1)


def test_section_picks_the_best_and_the_base(results):
    section = make_section(results)
    assert (section.best.method, section.base.method) == ("gated-image", "zero-shot")
    assert section.gains is not None
    assert section.curves is not None
    assert section.bars == [*[bar_of(result, section.axis) for result in results[:3]], None]


def test_thumbnails_are_small_and_bad_images_leave_a_gap():
    uri = thumbnail(an_image((3000, 1000)))
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 20_000
    assert thumbnail(b"no image") is None
    assert thumbnail(None) is None


def test_options_are_words():
    given = {"k": 16, "search": ["t2t", "t2i"], "chosen": [{"c": 0.316227}], "suite": {"files": ["x"]}, "size": None}
    assert settings(given) == "k 16, search t2t and t2i, chosen (c 0.3162)"
    assert settings({}) == ""
