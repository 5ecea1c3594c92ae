"""Invented reports, every section of them filled; names are markup, formulas and more."""

from typing import Any

import pytest
import torch

from loradar.evaluation import (
    BatteryResult,
    Check,
    LabelLeakResult,
    LeakPower,
    MemberResult,
    Picture,
    PlantedLabel,
    Probe,
    Sign,
)
from loradar.report.few_shot import BlendWeights, FewShotRow, FewShotSection, Shown, TaskPicture, averaged
from loradar.report.guards import (
    Alarms,
    Choice,
    Cost,
    CostPoint,
    Detection,
    GuardSection,
    Identification,
    Kept,
    Reliability,
    Suspect,
)
from loradar.report.schema import Curve, Point, ReloadCheck, Report, Size, Training
from loradar.report.sweeps import Searched, SweepSection, SweepTrial
from tests.evaluation.toys import row

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ATTACKS = ["none", *(f"pgd:eps={r}/255" for r in (2, 4, 6)), "corruptions"]


def few_shot_row(mean: float, **changes: object) -> FewShotRow:
    values = {"method": "AMT", "domain": "leaves", "setting": "5w1s", "attack": "none", "seed": 0} | changes
    return FewShotRow(**values | {"episodes": 10, "mean": mean, "half_width": 0.03})  # type: ignore[arg-type]


def hardening(name: str = "<b>roa|1</b>", word: str = "cat") -> Report:
    """A report of a job that trains: an adapter `name`, and a class `word`."""
    roa, fast, slow, against = "roa:seed=1", "pgd:eps=8/255", "pgd:steps=50", "roa:height=7"
    leak = LabelLeakResult(
        model=name,
        verdict="leaks",
        clean=row(name, "none", "clean", 431),
        true=row(name, roa, "transfer", 486),
        predicted=row(name, roa, "transfer", 447),
        wrong=row(name, roa, "transfer", 178),
        answered=290,
        signs=(Sign(name="the wrong label answered", more=288, fewer=1, p=1e-80, level=0.001),),
        seed=0,
        likely=(PlantedLabel(row=row(name, roa, "transfer", 201), answered=279),),
        power=(
            LeakPower(gate=None, share_80=0.012, share_95=0.016, gained=14, total=500),
            LeakPower(gate=2, share_80=None, share_95=None, gained=9, total=500),
        ),
    )
    battery = BatteryResult(
        model=name,
        trained_against=against,
        attack=slow,
        effort="standard",
        total=500,
        clean=431,
        raised=430,
        members=(
            MemberResult(name="PGD", attack=slow, crafted_on="", tried=431, broke=421),
            MemberResult(name=f"PGD on {name}", attack=slow, crafted_on=name, tried=10, broke=7),
        ),
        probe=Probe(effort="full", total=100, right=3, broke=2),
    )
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    words = {"label": word, "before": word, "after": "dog", "base_answer": f"not {word}"}
    picture = Picture.of(x, x.flip(2), model=name, attack=roa, threat="transfer", **words)
    points = tuple(Point(epoch=e, loss=2.0 / e, clean=90, adversarial=40 + e, total=100) for e in (1, 2, 3))
    return Report(
        title="Adapters & attacks",
        created="2025-01-31T12:00:00+00:00",
        rows=(
            row("base", "none", "clean", 455),
            row("base", roa, "adaptive", 111),
            row(name, "none", "clean", 431, against),
            row(name, roa, "transfer", 486, against),
            row(name, fast, "transfer", 40, against),
            row(name, slow, "adaptive", 3, against),
            row("fc-only", roa, "adaptive", 120, against),
        ),
        base={"architecture": "resnet18-cifar", "num_classes": 10, "classes": [word], "mean": [0.4914, 0.4822, 0.4465]},
        data={"source": "digits", "splits": {"train": 1000, "reported": {"from": "digits/all", "count": 500}}},
        versions={"python": "3.11.7", "loradar": "0.1.0"},
        baselines=("fc-only",),
        checks=(Check(model=name, name="noise is weaker", passed=False, detail="of 500", numbers={"noise": 1}),),
        batteries=(battery,),
        leaks=(leak,),
        sizes=(
            Size(model="base", bytes=44_795_936, parameters=11_173_962),
            Size(model=name, bytes=273_463, parameters=9),
        ),
        pictures=(picture,),
        training=Training(
            curves=(Curve(model=name, points=points, selected=2, criterion="adversarial"),) * 2,
            reload_checks=(ReloadCheck(model=name, differing=0, largest=0.0, total=1000),),
            last_epoch=(row(name, "none", "clean", 428, against), row(name, roa, "transfer", 487, against)),
        ),
    )


def guarding(name: str = "roa", word: str = "3") -> Report:
    """A guard's report: an adapter `name` votes, `word` is a class."""
    found = Identification(
        labels=("clean", name, "unknown"),
        confusion=((9, 1, 0), (0, 8, 2), (3, 4, 5)),
        fpr95=0.1,
        auroc={name: 0.97},
        calibration_error=0.02,
        unfitted={"fgsm": {name: 4, "unknown": 2}, "blur": {"clean": 3, "unknown": 3}},
        sure={"fgsm": 3, "blur": 0},
    )
    points = (
        CostPoint(label="gate at 0.5", passes=1.2, correct=80, total=100),
        CostPoint(label="gate at 0.9", passes=3.0, correct=85, total=100),
        CostPoint(label=f"{name} alone", passes=1.0, correct=30, total=100),
    )
    suspect = Suspect(image=PIXEL, done=name, named=name, probability=0.9, label=word, answer=word)
    return Report(
        title="Guard report",
        rows=(
            row("guard:mean", "union:attacks=3", "adaptive", 0),
            row("guard:mean", "none", "clean", 450),
            row("guard:mean", "roa", "adaptive", 200),
            row("base", "union:attacks=2", "adaptive", 0),
            row("base", "roa", "adaptive", 20),
            row(name, "none", "clean", 440, "roa"),
        ),
        base={"num_classes": 10},
        data={"source": "digits"},
        versions={},
        baselines=(name,),
        guard=GuardSection(
            max_fpr=0.01,
            alarms=(
                Alarms(kind="untouched", alarms=3, total=500, fitted=True),
                Alarms(kind="zoom", alarms=20, total=500, fitted=False),
            ),
            detections=(
                Detection(attack=name, detected=480, harmful=2, total=500, known=True, fitted=True),
                Detection(attack="noise", detected=9, harmful=1, total=500, known=False, fitted=False),
            ),
            choice=Choice(
                answered_by=name,
                fusion="mean",
                kept={name: Kept(right=33, total=64), "guard:mean": Kept(right=30, total=64, bound=True)},
                reason=f"adapter {name} answers",
            ),
            identification=found,
            cost=Cost(forwards_per_image={"clean": 1.2, name: 3.0}, points=points),
            reliabilities=(Reliability(model=name, counts=(3, 7), confidences=(0.4, 0.9), rights=(1, 7), error=0.05),)
            * 4,
            suspects=(suspect,),
        ),
        notes=(f"Made with {name}.",),
    )


def few_shot(name: str = "<plain>", word: str = "oak") -> Report:
    """A few-shot report: a method and a domain called `name`, a class `word`."""
    rows = [
        few_shot_row(0.4 + 0.1 * (m == "AMT") - 0.05 * i, method=m, domain=d, attack=a)
        for m in ("AMT", "no tuning", name)
        for d in (name, "digits")
        for i, a in enumerate(ATTACKS)
        if not (m == name and a != "none")
    ]
    shown = Shown(picture=PIXEL, label=word, answer="elm")
    task = TaskPicture(
        domain=name, setting="5w1s", method="AMT", support=(shown,), query=(shown,), weights={name: 1.0, "b": 0.0}
    )
    section = FewShotSection(
        rows=(*averaged(rows, [name, "digits"], "out of domain"), *rows),
        full="AMT",
        reference="no tuning",
        pool={name: {"rank": 4}},
        ablation_chain={"adversarial query": "no tuning", "+ trimming": "AMT"},
        blends=(BlendWeights(domain=name, setting="5w1s", episodes=10, members={name: 0.7, "b": 0.3}),),
        tasks=(task,),
    )
    return Report(
        title="Few-shot report",
        rows=(),
        base={"architecture": "resnet18"},
        data={name: {"images": 3}},
        versions={"torch": "2"},
        few_shot=section,
        notes=("Read me & weep.",),
    )


def sweeping(name: str = "<b>$x$</b>") -> Report:
    """A sweep's report: `name` is an attack, and a value that was tried."""
    common: dict[str, Any] = {"planned": 3, "total": 100}
    trials = (
        SweepTrial(
            **common,
            number=1,
            settings={"learning_rate": 0.002, "rank": name},
            state="finished",
            clean=(80, 90, 85),
            adversarial=(40, 60, 70),
            selected=3,
            seconds=9.4,
        ),
        SweepTrial(
            **common,
            number=2,
            settings={"learning_rate": 0.03, "rank": 8},
            state="stopped",
            clean=(10,),
            adversarial=(9,),
            selected=1,
            seconds=3.2,
        ),
        SweepTrial(
            **common,
            number=3,
            settings={"learning_rate": 0.04, "rank": 8},
            state="failed",
            clean=(),
            adversarial=(),
            selected=0,
            seconds=0.0,
            reason="the loss is nan at step 3",
        ),
    )
    section = SweepSection(
        trials=trials,
        searched=(
            Searched(name="learning_rate", low=1e-3, high=0.1, log=True),
            Searched(name="rank", values=(name, 8)),
        ),
        best=1,
        attack=name,
        method="random",
        early_stopping=True,
        clean_weight=0.25,
        seed=0,
    )
    return Report(title="Sweep report", rows=(), base={}, data={}, versions={}, sweep=section)


@pytest.fixture(scope="session")
def report() -> Report:
    return hardening()


@pytest.fixture(scope="session", params=[hardening, guarding, few_shot, sweeping])
def every_report(request: pytest.FixtureRequest) -> Report:
    made: Report = request.param()
    return made
