"""Plots as SVG: round ticks, everything inside the picture, nothing unescaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from retrolit.reports.plots import HEIGHT, WIDTH, Bar, BarPlot, Line, LinePlot, draw, round_ticks, short

LINES = [
    Line("first", [(0, 1.0), (10, -3.0), (1000, 2.5)], intervals=[(0.5, 1.5), None, (2.0, 40.0)]),
    Line("<second>", [(500, 0.001)], colour=7, faint=True),
]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 12, [0, 5, 10]),
        (0.0011, 0.0019, [0.0012, 0.0014, 0.0016, 0.0018]),
        (990, 1010, [990, 995, 1000, 1005, 1010]),
    ],
)
def test_ticks_are_round_and_within(low, high, expected):
    assert round_ticks(low, high) == pytest.approx(expected)


def test_numbers_of_axes_are_short():
    assert [short(value) for value in (0.1 + 0.2, 1e-17, 1200, 35000, 1.25e6, 2e9)] == [
        "0.3", "0", "1,200", "35k", "1.25M", "2G"
    ]  # fmt: skip


def test_points_lie_inside_and_higher_values_higher():
    root = ElementTree.fromstring(draw(LinePlot("a & b", "x", "y", LINES, with_zero=True)))
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"
    assert root.attrib["aria-label"] == "a & b"
    lines = [[tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in root.iter("polyline")]
    assert [len(points) for points in lines] == [3, 1]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for points in lines for x, y in points)
    (_, first), (_, second), (_, third) = lines[0]
    assert second > first > third  # y grows downwards
    assert lines[0][0][0] < lines[0][1][0] < lines[1][0][0] < lines[0][2][0]
    whiskers = [line for line in root.iter("line") if "whisker" in line.attrib["class"]]
    assert len(whiskers) == 2
    assert all(0 < float(line.attrib[name]) < HEIGHT for line in whiskers for name in ("y1", "y2"))


def test_a_single_point_and_a_flat_line_can_be_drawn():
    for points in ([(5.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)]):
        svg = draw(LinePlot("flat", "x", "y", [Line("only", points)]))
        assert "nan" not in svg
        assert svg.count("<circle") == len(points)


def test_many_points_have_no_dots():
    assert "<circle" not in draw(LinePlot("long", "x", "y", [Line("only", [(i, i) for i in range(100)])]))


def test_bars_reach_from_zero_either_way():
    root = ElementTree.fromstring(draw(BarPlot("gain", "bits", [Bar("up", 2.0, (1.0, 3.0)), Bar("<down>", -1.0)])))
    up, down = root.iter("rect")
    zero = next(float(line.attrib["x1"]) for line in root.iter("line") if line.attrib["class"] == "zero")
    assert float(up.attrib["x"]) == pytest.approx(zero)
    assert float(down.attrib["x"]) + float(down.attrib["width"]) == pytest.approx(zero, abs=0.2)
    assert float(up.attrib["width"]) == pytest.approx(2 * float(down.attrib["width"]), rel=0.01)
    assert "<down>" in [text.text for text in root.iter("text")]


def test_colours_are_classes_so_that_the_page_decides():
    svg = draw(LinePlot("t", "x", "y", LINES)) + draw(BarPlot("t", "u", [Bar("a", 1.0)]))
    assert not re.search(r"#[0-9a-f]{3}|rgb|style=|fill=|stroke=", svg)
