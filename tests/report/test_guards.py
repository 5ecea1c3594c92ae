"""What a report says of a guard: counts that add up, rectangles drawn where they are said to be, drawings of both kinds."""

import base64
import io

import pytest
import torch
from PIL import Image

from loradar.core.errors import BadConfigError
from loradar.report.files import from_json, to_json
from loradar.report.guards import Alarms, Cost, CostPoint, Detection, Identification, Kept, Reliability, Suspect
from loradar.report.page import render
from loradar.report.plots import cost_svg, reliability_svg
from tests.report.conftest import guarding

FOUND = Identification(
    labels=("clean", "roa", "unknown"),
    confusion=((9, 1, 0), (0, 8, 2), (3, 4, 5)),
    fpr95=0.1,
    auroc={"roa": 0.97},
    calibration_error=0.02,
    unfitted={"fgsm": {"roa": 4, "unknown": 2}, "blur": {"clean": 3, "unknown": 3}},
    sure={"fgsm": 3, "blur": 0},
)


def test_counts_of_names() -> None:
    assert FOUND.right == (17, 20)
    assert FOUND.alarms == (1, 10)
    assert FOUND.unnamed == (8, 12)
    assert FOUND.doubted == (9, 12)


def test_a_confusion_that_is_not_square_is_refused() -> None:
    with pytest.raises(BadConfigError, match="not square"):
        Identification(labels=("clean", "roa"), confusion=((1, 2),), fpr95=0, auroc={}, calibration_error=0)


def drawn(rectangle: tuple[int, int, int, int] | None) -> Image.Image:
    suspect = Suspect.of(
        torch.zeros(3, 32, 32), rectangle=rectangle, done="roa", named="roa", probability=0.9, label="3", answer="3"
    )
    return Image.open(io.BytesIO(base64.b64decode(suspect.image))).convert("RGB")


def test_the_rectangle_is_drawn_where_it_is_suspected() -> None:
    picture = drawn((10, 20, 5, 6))
    scale = picture.width // 32
    ink = [(x, y) for x in range(picture.width) for y in range(picture.height) if picture.getpixel((x, y)) != (0, 0, 0)]
    columns, rows = [x for x, _ in ink], [y for _, y in ink]
    assert (min(columns), max(columns)) == (20 * scale, 26 * scale - 1)
    assert (min(rows), max(rows)) == (10 * scale, 15 * scale - 1)
    assert drawn(None).getcolors() == [(picture.width * picture.height, (0, 0, 0))]


def test_drawings_name_what_they_show() -> None:
    one = Reliability(model="roa", counts=(3, 7), confidences=(0.4, 0.9), rights=(1, 7), error=0.05)
    assert "roa: calibration error 5.0%" in reliability_svg([one] * 4, key="r")
    assert reliability_svg([], key="r") == ""
    points = (
        CostPoint(label="gate at 0.5", passes=1.2, correct=80, total=100),
        CostPoint(label="gate at 0.9", passes=3.0, correct=85, total=100),
        CostPoint(label="base alone", passes=1.0, correct=30, total=100),
    )
    drawing = cost_svg(Cost(forwards_per_image={"clean": 1.2}, points=points), key="c")
    assert "base alone" in drawing
    assert "forward passes of the base per image" in drawing
    assert cost_svg(Cost(forwards_per_image={}), key="c") == ""


def test_rates_have_wilson_intervals() -> None:
    alarms = Alarms(kind="jpeg", alarms=5, total=500, fitted=True)
    detection = Detection(attack="pgd", detected=330, harmful=4, total=500, known=True, fitted=True)
    assert alarms.interval == pytest.approx((0.00428, 0.02319), abs=1e-4)
    assert detection.interval == pytest.approx((0.617, 0.700), abs=1e-3)
    assert str(Kept(right=33, total=64)) == "33 of 64 images (40-63 %)"
    assert str(Kept(right=33, total=64, bound=True)).startswith("at most 33")


def test_both_pages_show_alarms_detection_and_what_answers() -> None:
    report = guarding()
    for page in render(report):
        for part in (
            "False alarms",
            "1.0 % was asked for",
            "3 of 500",
            "480 of 500",
            "adapter roa answers",
            "at most 30",
        ):
            assert part in page
    assert from_json(to_json(report)) == report
