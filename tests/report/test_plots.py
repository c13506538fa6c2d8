"""Plots: what is drawn, that names are escaped, that colours follow the page."""

import re
from xml.etree import ElementTree

from retroclip.report import plots


def test_gains_are_sorted_and_skip_classes_that_either_lacks(make_result):
    base = make_result("zero-shot", 0.5, per_class={"a": 0.5, "b": 0.2, "c": 0.9, "d": 0.1})
    result = make_result("x", 0.5, per_class={"a": 0.25, "b": 0.7, "c": 0.9})
    gains = plots.per_class_gains(base, result)
    assert [(name, round(gain, 6)) for name, gain in gains] == [("b", 50.0), ("c", 0.0), ("a", -25.0)]


def test_long_lists_show_both_ends():
    gains = [(str(i), float(-i)) for i in range(100)]
    shown = plots.shown_gains(gains)
    assert shown == gains[:20] + gains[-10:]
    assert plots.shown_gains(gains[:30]) == gains[:30]


def test_names_of_any_kind_are_drawn_as_text():
    svg = plots.plot_gains([("<script>", 3.0), ("$x_1^$", -2.0), ("猫", 1.0), ("a & b", 0.0)])
    texts = ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if "text" in node.tag]
    assert {"<script>", "$x_1^$", "猫", "a & b", "+3", "−2"} <= set(texts)
    assert "<script>" not in svg


def test_colours_are_variables_and_the_size_is_the_page_s(results):
    for svg in (plots.plot_gains([("a", 1.0), ("b", -1.0)]), plots.plot_curves([results[2]])):
        assert "#0102" not in svg
        assert "var(--ink)" in svg
        opening = re.match(r"<svg[^>]*>", svg).group()
        assert "viewBox" in opening
        assert " width=" not in opening
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)


def test_curves_name_each_method(results, make_result):
    second = make_result("reco", 0.8, history=[{"loss": 2.0}, {"loss": 1.0, "lr": 0.1}, {"lr": 0.1}])
    svg = plots.plot_curves([results[2], second])
    assert "gated-image" in svg
    assert "reco" in svg


def test_the_legend_lies_below_the_curves(make_result):
    many = [make_result(f"method {n}", 0.8, history=[{"loss": 2.0 - n / 5}, {"loss": 1.0}]) for n in range(5)]
    root = ElementTree.fromstring(plots.plot_curves(many))
    height = {"".join(node.itertext()).strip(): float(node.get("y")) for node in root.iter() if "text" in node.tag}
    assert min(height[f"method {n}"] for n in range(5)) > height["training done, %"]
