"""The strongest of what is crafted against transductive heads is the one that counts."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from loradar.attacks import BaseAttack
from loradar.core.types import Images, Labels
from loradar.fewshot.engine import ModelsKey
from loradar.fewshot.heads import CENTROID, HeadConfig, TaskClassifier
from loradar.fewshot.methods import least_right
from loradar.fewshot.pools import BASE
from loradar.fewshot.transduction import Transduction, TransductiveHead
from tests.fewshot.made_pools import engine_of


@dataclass(frozen=True, kw_only=True)
class _Harmful(BaseAttack):
    """Turns the images over for heads of some rounds of transduction, and leaves them as they are for all others."""

    rounds: int | None
    asked: list[int | None] = field(default_factory=list, compare=False)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        assert isinstance(model, TaskClassifier)
        rounds = model.head.rule.rounds if isinstance(model.head, TransductiveHead) else None
        self.asked.append(rounds)
        return x.flip(0) if rounds == self.rounds else x


def test_the_strongest_of_three_counts(runs: dict[str, Path], support: Path) -> None:
    engine = engine_of(runs["resnet"], support)
    x, y = engine.task.query, engine.task.query_labels
    transductive = engine.fixed(BASE, HeadConfig(transduction=Transduction()))
    model = engine.classifier([transductive])
    with torch.no_grad():
        clean, turned = (float((model(images).argmax(1) == y).float().mean()) for images in (x, x.flip(0)))
    assert turned < clean
    for rounds in (6, 1, None):
        attack = _Harmful(rounds=rounds)
        crafted: dict[ModelsKey, Images] = {}
        assert least_right(engine, [transductive], attack, x, y, crafted) == turned
        assert attack.asked == [6, 1, None]
        # what was crafted through the plain head is not crafted again for those that have no other
        least_right(engine, [engine.fixed(BASE, CENTROID)], attack, x, y, crafted)
        assert attack.asked == [6, 1, None]
    assert least_right(engine, [transductive], _Harmful(rounds=9), x, y, {}) == clean
