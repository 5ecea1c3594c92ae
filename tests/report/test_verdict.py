"""Each line of the rule, by figures that are just on one side of it."""

import dataclasses
from typing import Any

import pytest

from loradar.evaluation import AccuracyResult, Check
from loradar.report.schema import Report
from loradar.report.verdict import Level, next_steps, verdicts
from tests.evaluation.toys import row
from tests.report.conftest import few_shot, guarding, hardening

OWN = "roa:steps=30"


def judged(*rows: AccuracyResult, **fields: Any) -> dict[str, tuple[Level, str]]:
    report = Report(rows=rows, base={"num_classes": 10}, data={}, versions={}, **fields)
    return {one.candidate: (one.level, one.text) for one in verdicts(report)}


BASE = (row("base", "none", "clean", 495), row("base", "roa", "adaptive", 215), row("base", "pgd", "adaptive", 0))
CLEAN = row("m", "none", "clean", 490, OWN)


def test_a_model_that_holds() -> None:
    level, text = judged(*BASE, CLEAN, row("m", "roa", "adaptive", 405, OWN))["m"]
    assert level == "robust"
    assert text == (
        "m: robust to ROA, the only attack measured adaptively: 81 % (77-84, n = 500) of images survive ROA computed on the "
        "model itself, 43 % without the adapter; clean accuracy 98.0 % against 99.0 %."
    )


def test_a_model_that_is_told_the_answer() -> None:
    report = hardening(name="fia")
    leak = dataclasses.replace(report.leaks[0], model="fia")
    rows = (row("base", "fia", "transfer", 0), row("fia", "fia", "transfer", 485), row("fia", "fia", "adaptive", 0))
    level, text = judged(*rows, leaks=(leak,))["fia"]
    assert level == "not"
    assert text == (
        "fia: NOT robust: 97 % of images survive FIA computed on the base, 0 % (0-0.8, n = 500) computed on the model itself. "
        "Fails the leak test: it reads labels from the perturbation."
    )


FAILED = Check(model="m", name="noise", passed=False, detail="", numbers={})
LEAK = dataclasses.replace(hardening().leaks[0], model="m")


@pytest.mark.parametrize(
    ("rows", "fields", "level", "words"),
    [
        ([], {}, "unknown", "no attack was measured"),
        ([("roa", "transfer", 500)], {}, "unknown", "measured by transfer only: 100 % (99.2-100, n = 500)"),
        ([("roa", "adaptive", 405)], {"checks": (FAILED,)}, "unknown", "Fails 1 of 1 checks for masked gradients."),
        ([("roa", "adaptive", 405)], {"leaks": (LEAK,)}, "unknown", "Fails the leak test"),
        ([("roa", "adaptive", 235)], {}, "unknown", "the intervals overlap"),
        ([("roa", "adaptive", 215)], {}, "not", "43 % (39-47, n = 500)"),
        ([("pgd", "adaptive", 60)], {}, "unknown", "not clearly above chance (10 %)"),
        ([("pgd", "adaptive", 50)], {}, "not", "10 % (8-13, n = 500)"),
        ([("fia", "adaptive", 400)], {}, "unknown", "the base was not measured under this attack"),
        ([("fia", "adaptive", 40)], {}, "not", "8 % (6-11, n = 500)"),
        (
            [("roa", "adaptive", 405), ("pgd", "adaptive", 300)],
            {},
            "robust",
            "robust to PGD and ROA: at the least, 60 %",
        ),
        (
            [("roa", "adaptive", 405), ("pgd", "adaptive", 3)],
            {},
            "partly",
            "holds against ROA: 81 % (77-84, n = 500) of images survive ROA computed on the model itself, 43 % without the "
            "adapter; not against PGD, 0.6 % (0.2-2, n = 500);",
        ),
        ([("roa", "adaptive", 100), ("pgd", "adaptive", 3)], {}, "not", "20 % (17-24, n = 500) of images survive ROA"),
        ([("roa", "adaptive", 405), ("fia", "transfer", 500)], {}, "robust", "the only attack measured adaptively"),
    ],
)
def test_the_rule(rows: list[tuple[str, Any, int]], fields: dict[str, Any], level: Level, words: str) -> None:
    given, text = judged(*BASE, CLEAN, *(row("m", *one, OWN) for one in rows), **fields)["m"]
    assert (given, words in text) == (level, True), text
    assert level == "robust" or "m: robust" not in text


@pytest.mark.parametrize(
    ("rows", "level", "words"),
    [
        ([("none", "clean", 495)], "unknown", "no attack was measured"),
        (
            [("none", "clean", 495), ("roa", "transfer", 200)],
            "not",
            "40 % (36-44, n = 500) of images survive ROA; clean",
        ),
        (
            [("none", "clean", 495), ("roa", "adaptive", 400), ("pgd", "adaptive", 300)],
            "partly",
            "60 % (56-64, n = 500)",
        ),
        ([("none", "clean", 495), ("roa", "adaptive", 490)], "unknown", "the attacks tried do not clearly hurt it"),
        ([("roa", "adaptive", 50)], "not", "NOT robust: 10 %"),
        ([("none", "clean", 495), ("pgd:steps=5", "adaptive", 9), ("pgd", "adaptive", 3)], "not", "survive PGD; clean"),
    ],
)
def test_the_base_has_itself_alone(rows: list[tuple[str, Any, int]], level: Level, words: str) -> None:
    given, text = judged(*(row("base", *one) for one in rows))["base"]
    assert (given, words in text) == (level, True), text
    alone = judged(*(row("mine", *one) for one in rows if one[1] != "transfer"))
    assert [one[0] for one in alone.values()] == [level if rows[-1][1] != "transfer" else "unknown"]


def test_of_several_seeds_the_lowest_counts() -> None:
    rows = (row("m", "roa", "adaptive", 405, OWN), row("m", "roa", "adaptive", 215, OWN))
    assert judged(*BASE, *rows)["m"] == judged(*BASE, *rows[::-1])["m"]
    assert judged(*BASE, *rows)["m"][0] == "not"


@pytest.mark.parametrize("classes", [None, 0, 1, "many", 2])
def test_chance_is_a_half_where_classes_are_not_known(classes: object) -> None:
    rows = (*BASE, row("m", "pgd", "adaptive", 245, OWN))
    report = Report(rows=rows, base={"num_classes": classes}, data={}, versions={})
    assert [one.level for one in verdicts(report)][1] == "not"


def test_the_base_comes_first_and_baselines_last() -> None:
    rows = (row("fc-only", "roa", "adaptive", 1, OWN), CLEAN, *BASE)
    assert list(judged(*rows, baselines=("fc-only",))) == ["base", "m", "fc-only"]


def test_a_guard_is_compared_with_the_base_by_the_union_of_attacks() -> None:
    found = {one.candidate: one for one in verdicts(guarding())}
    assert found["guard:mean"].level == "partly"
    assert "40 % (36-44, n = 500) of images survive ROA computed on the model itself, 4 % for the base alone" in (
        found["guard:mean"].text
    )
    assert "not against all attacks together, 0 % (0-0.8, n = 500)" in found["guard:mean"].text


def test_a_few_shot_method_is_compared_with_the_reference_for_each_setting() -> None:
    (found,) = verdicts(few_shot())
    assert (found.candidate, found.level) == ("AMT, 5w1s", "robust")
    assert "35 % (33-37, 20 tasks) of queries survive PGD eps=6/255" in found.text
    assert "25 % with no tuning; clean accuracy 50.0 % against 40.0 %" in found.text


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        ([("m", "roa", "transfer", 400)], {}, "Measure m adaptively"),
        ([("m", "roa", "adaptive", 3)], {}, "Retrain m with --recipe strong"),
        ([("m", "roa", "adaptive", 3)], {"leaks": (LEAK,)}, "Retrain m with attacks on the adapted model"),
        ([("m", "roa", "adaptive", 400)], {"checks": (FAILED,)}, "Attack m without gradients"),
        ([("m", "roa", "adaptive", 400)], {}, "trained against (--adaptive all)"),
        ([("m", "roa", "adaptive", 400)], {}, "Confirm with a stronger attack"),
        ([], {}, "Train adapters"),
    ],
)
def test_what_to_do_next(rows: list[tuple[str, str, Any, int]], fields: dict[str, Any], words: str) -> None:
    report = Report(
        rows=(*BASE, *(row(*one, OWN) for one in rows)), base={"num_classes": 10}, data={}, versions={}, **fields
    )
    steps = next_steps(report)
    assert [step for step in steps if words in step], steps
    assert len(steps) <= 5


def test_where_one_attack_was_measured_others_are_to_be_named() -> None:
    rows = (row("base", "roa", "adaptive", 3), row("m", "roa", "adaptive", 400, OWN))
    steps = next_steps(Report(rows=rows, base={"num_classes": 10}, data={}, versions={}))
    assert any("trained against (--adaptive-attacks" in step for step in steps), steps


def test_more_images_are_asked_for_where_intervals_are_wide() -> None:
    few = AccuracyResult.count(model="base", attack="roa", threat="adaptive", correct=5, total=20, seed=0)
    assert "Measure more images: intervals are up to 36 points wide." in next_steps(
        Report(rows=(few,), base={}, data={}, versions={})
    )


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"spec": "runs/my base"}, "loradar harden 'runs/my base' --data digits."),
        ({"spec": "memory:12ab"}, "loradar harden BASE --data DATA."),
        ({"spec": "runs/base", "task": "leaves"}, "loradar harden BASE --data DATA."),
        ({}, "loradar harden BASE --data DATA."),
    ],
)
def test_a_step_names_what_its_command_can_open(base: dict[str, str], said: str) -> None:
    attacked = row("base", "pgd", "adaptive", 0)
    report = Report(
        rows=(attacked,), base={"num_classes": 10, **base}, data={}, versions={}, settings={"data": "digits"}
    )
    assert f"Train adapters: {said}" in next_steps(report)
