import xml.etree.ElementTree as ET

import matplotlib as mpl

from loradar.report.plots import curve_svg
from loradar.report.schema import Curve, Point


def curve(*points: Point) -> Curve:
    return Curve(model="m", points=points, selected=1, criterion="c")


def test_a_curve_is_svg_in_the_colours_of_the_page() -> None:
    before = dict(mpl.rcParams)
    svg = curve_svg(
        curve(Point(epoch=1, loss=2.0, clean=5, adversarial=3, total=10), Point(epoch=2, loss=1.0)), key="k"
    )
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert {"var(--ink)", "var(--clean)", "var(--attack)"} <= set(svg.replace(";", " ").replace('"', " ").split())
    assert "#01020" not in svg
    assert all(element.get("id", "k-").startswith("k-") for element in root.iter())
    assert dict(mpl.rcParams) == before


def test_a_curve_of_nothing_measured_is_still_drawn() -> None:
    assert "<svg" in curve_svg(curve(Point(epoch=1)), key="k")
    assert curve_svg(curve(), key="k") == ""


def test_the_same_curve_is_the_same_text() -> None:
    drawn = curve(Point(epoch=1, loss=1.0, clean=1, total=2))
    assert curve_svg(drawn, key="k") == curve_svg(drawn, key="k")
