"""One invented report, every section of it filled."""

import pytest
import torch

from loradar.evaluation import Check, LabelLeakResult, Picture, Sign
from loradar.report.schema import Curve, Point, ReloadCheck, Report, Size
from tests.evaluation.toys import row


@pytest.fixture(scope="session")
def report() -> Report:
    """Every section filled, with a model name that is markup and attacks of one kind twice."""
    roa, fast, slow = "roa", "pgd:eps=4/255", "pgd:steps=50"
    name, against = "<b>roa|1</b>", "roa:height=7,seed=1"
    leak = LabelLeakResult(
        model=name,
        verdict="leaks",
        clean=row(name, "none", "clean", 431),
        true=row(name, roa, "transfer", 486),
        predicted=row(name, roa, "transfer", 447),
        wrong=row(name, roa, "transfer", 178),
        answered=290,
        signs=(Sign(name="the wrong label answered", more=288, fewer=1, p=1e-80),),
        seed=0,
    )
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = Picture.of(
        x, x.flip(2), model=name, attack=roa, threat="transfer", label="cat", before="cat", after="dog"
    )
    points = tuple(Point(epoch=e, loss=2.0 / e, clean=90, adversarial=40 + e, total=100) for e in (1, 2, 3))
    return Report(
        title="Adapters & attacks",
        rows=(
            row("base", "none", "clean", 455),
            row("base", roa, "adaptive", 111),
            row(name, "none", "clean", 431, against),
            row(name, roa, "transfer", 486, against),
            row(name, fast, "transfer", 40, against),
            row(name, slow, "adaptive", 3, against),
        ),
        base={"architecture": "resnet18-cifar", "mean": [0.4914, 0.4822, 0.4465]},
        data={"name": "digits", "splits": {"train": 1000, "reported": 500}},
        versions={"python": "3.11.7", "loradar": "0.1.0"},
        checks=(Check(model=name, name="noise is weaker", passed=False, detail="of 500", numbers={"noise": 1}),),
        leaks=(leak,),
        curves=(Curve(model=name, points=points, selected=2, criterion="adversarial"),) * 2,
        sizes=(
            Size(model="base", bytes=44_795_936, parameters=11_173_962),
            Size(model=name, bytes=273_463, parameters=9),
        ),
        replugged=(ReloadCheck(model=name, differing=0, largest=0.0, total=1000),),
        last_epoch=(row(name, "none", "clean", 428, against), row(name, roa, "transfer", 487, against)),
        pictures=(picture,),
    )
