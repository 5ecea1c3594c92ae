"""The methods that are measured beside each other, and those that take the full one apart."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.types import Attack, Images, Labels
from loradar.evaluation import predict
from loradar.fewshot.blending import Blending, Scoring
from loradar.fewshot.chunks import images_at_once, memory_bound
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import ModelsKey, TaskEngine, TaskModel, attacked_through
from loradar.fewshot.heads import CENTROID, HeadConfig
from loradar.fewshot.pools import AVERAGE, BASE, PoolModels
from loradar.fewshot.tasks import share
from loradar.fewshot.transduction import Transduction

FULL, NO_TUNING, CLEAN, RANDOM = "AMT", "no tuning", "clean meta-tuning (PMF)", "one adapter, random budgets"
SEARCHED, TUNED, TRANSDUCTIVE = "AMT, settings searched", "AMT-FT", "AMT, transductive"
MAIN_METHODS = (FULL, TRANSDUCTIVE, NO_TUNING, CLEAN, RANDOM)
"""The full method, and those that it is to be compared with first; so are the values of its dial and `untuned`."""
_AT = f"{FULL}, robust "
CHOSEN = "single member by a classifier of validation tasks"
SINGLE, ORACLE, _MEMBER = "single member by held-out answers", "best member of each task (by its queries)", "member "
OTHERWISE: dict[Scoring, tuple[str, Scoring]] = {
    "held-out": ("AMT, members scored under attack", "attacked"),
    "compactness": ("AMT, members scored by loss", "loss"),
    "loss": ("AMT, members scored by compactness", "compactness"),
    "attacked": ("AMT, members scored by compactness", "compactness"),
}
"""By how the full method scores members: the row beside it that scores them the other way."""
UNPERTURBED = "one adapter, random budgets, unperturbed"
BY_CENTROID, UNTRIMMED = "AMT, nearest centroid", "AMT without trimming"
_AT_LAST, _AVERAGED = "last features", "average of weights"
_FOLDERS = {CLEAN: "clean", RANDOM: "random-budget", UNPERTURBED: "random-budget-unperturbed"}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to classify a task: the models whose logits are averaged. `attacked` and `corrupted`: whether it is measured so."""

    name: str
    models: Callable[[TaskEngine], Sequence[TaskModel]]
    attacked: bool = True
    corrupted: bool = True


def ablation_chain(full: Blending) -> dict[str, str]:
    """The components, each added to those before it, and the method that has all of them so far."""
    steps = {
        "adversarial query": UNPERTURBED,
        "+ perturbed singular values and vectors": RANDOM,
        "+ pool (average of weights)": _AVERAGED,
        "+ blending": UNTRIMMED,
    }
    if full.head == CENTROID:
        return steps | {"+ trimming (the full method)": FULL}
    last = "+ trimming" if full.rank_keep_ratio < 1 else "+ blending"
    return steps | {last: BY_CENTROID, f"+ {full.head.kind} head (the full method)": FULL}


def untuned(full: Blending) -> str:
    """The name of the base under the full method's head."""
    return NO_TUNING if full.head == CENTROID else _with_head(NO_TUNING, full)


def is_main(name: str, full: Blending) -> bool:
    """Whether a method is among those that are compared first."""
    return name in (*MAIN_METHODS, untuned(full)) or name.startswith(_AT)


def oracle(shares: Mapping[str, float], full: Blending) -> dict[str, float]:
    """What a choice among the base and the members could gain at most: the largest of their `shares` on a task."""
    of_members = [share for name, share in shares.items() if name.startswith(_MEMBER)]
    return {ORACLE: max(shares[untuned(full)], *of_members)} if of_members else {}


def _with_head(name: str, full: Blending) -> str:
    return f"{name}, {full.head.kind} head"


def methods(
    models: PoolModels,
    full: Blending,
    config: FewShotEvalConfig,
    *,
    searched: Blending | None,
    choose: Callable[[TaskEngine], str] | None,
) -> list[Method]:
    """The full method first, then every baseline, then what takes it apart; `choose` names a member for a task."""
    found = [_blend(FULL, full)]
    found += [_blend(f"{_AT}{at:g}", dataclasses.replace(full, robust=at)) for at in config.dial]
    found += [_blend(SEARCHED, searched)] if searched else []
    if config.transductive:
        transductive = dataclasses.replace(full.head, transduction=Transduction())
        found.append(_blend(TRANSDUCTIVE, dataclasses.replace(full, head=transductive)))
        found += [_fixed(f"{name}, transductive", weights, head=transductive) for name, weights in _peers_of(models)]
    found.append(_fixed(NO_TUNING, BASE))
    found += [_fixed(name, folder) for name, folder in _FOLDERS.items() if folder in models.fixed]
    found += [
        Method(name="single member by support loss", models=lambda engine: [engine.of_least_loss()]),
        _fixed(_AVERAGED, AVERAGE),
        Method(name="average of logits", models=lambda engine: [engine.fixed(name) for name in engine.models.members]),
    ]
    if full.score == "held-out" and full.top > 1:
        found.append(_blend(SINGLE, dataclasses.replace(full, top=1)))
    if choose:
        found.append(Method(name=CHOSEN, models=lambda engine: [engine.fixed(choose(engine))]))
    name, other = OTHERWISE[full.score]
    found.append(_blend(name, dataclasses.replace(full, score=other)))
    return found + _other_heads(models, full) + (_taken_apart(models, full) if config.ablations else [])


def _other_heads(models: PoolModels, full: Blending) -> list[Method]:
    """The full method without its own head and trimming, its peers with that head, and some on the last features alone."""
    by_centroid, found = dataclasses.replace(full, head=CENTROID), []
    if full.head != by_centroid.head:
        found.append(_blend(BY_CENTROID, by_centroid))
        found += [_fixed(_with_head(name, full), weights, head=full.head) for name, weights in _peers_of(models)]
    if full.rank_keep_ratio < 1:
        found.append(_blend(UNTRIMMED, dataclasses.replace(by_centroid, rank_keep_ratio=1.0)))
    if models.last:
        last = HeadConfig(last=models.last)
        found.append(_blend(f"{FULL}, nearest centroid, {_AT_LAST}", dataclasses.replace(full, head=last)))
        found.append(_fixed(f"{NO_TUNING}, {_AT_LAST}", BASE, head=last))
        if _FOLDERS[CLEAN] in models.fixed:
            found.append(_fixed(f"{CLEAN}, {_AT_LAST}", _FOLDERS[CLEAN], head=last))
    return found


def _peers_of(models: PoolModels) -> list[tuple[str, str]]:
    """The baselines of one set of weights each that are measured under the full method's heads too, and their weights."""
    tuned = [(name, _FOLDERS[name]) for name in (CLEAN, RANDOM) if _FOLDERS[name] in models.fixed]
    return [(NO_TUNING, BASE), *tuned, (_AVERAGED, AVERAGE)]


def _taken_apart(models: PoolModels, full: Blending) -> list[Method]:
    untrimmed = dataclasses.replace(full, rank_keep_ratio=1.0)
    names = models.members
    found = [_fixed(f"{_MEMBER}{name}", name, head=full.head) for name in names]
    for top in range(1, len(names) + 1):
        # under the nearest centroid, the full method without trimming is this very row
        if (top != full.top or full.head != CENTROID) and not (top == 1 and full.score == "held-out"):
            part = dataclasses.replace(untrimmed, top=top)
            found.append(_blend(f"top-{top}, untrimmed", part, main=False))
    # the first members of the pool are those of the smallest budgets, so the other end goes first
    for size in range(2, len(names)):
        part = dataclasses.replace(untrimmed, members=names[-size:])
        found.append(_blend(f"pool of {size}, untrimmed", part, main=False))
    return found


def _fixed(name: str, weights: str, *, head: HeadConfig = CENTROID) -> Method:
    return Method(name=name, models=lambda engine: [engine.fixed(weights, head)])


def _blend(name: str, blending: Blending, *, main: bool = True) -> Method:
    return Method(name=name, models=lambda engine: [engine.blended(blending)], attacked=main, corrupted=main)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A method of easyfsl on the features of the base, or `on_blend`, of the full method's. Transductive: it sees all of the
    query at once."""

    name: str
    make: Callable[[], object]
    on_blend: bool = False

    def right(self, support: Tensor, support_labels: Tensor, query: Tensor, query_labels: Tensor) -> float:
        """The share of right answers; features (n, d)."""
        classifier = self.make()
        classifier.process_support_set(support.clone(), support_labels)  # type: ignore[attr-defined]
        scores = classifier(query.clone())  # type: ignore[operator]
        return share(scores.argmax(1), query_labels)


def peers() -> list[Peer]:
    """easyfsl's methods that need no training of their own; none where it is not installed."""
    try:
        from easyfsl.methods import BDCSPN, TIM, Finetune, LaplacianShot
    except ImportError:
        return []
    return [
        Peer(name="easyfsl Finetune", make=Finetune),
        Peer(name=f"{FULL} with easyfsl BD-CSPN (transductive)", make=BDCSPN, on_blend=True),
        Peer(name="easyfsl BD-CSPN (transductive)", make=BDCSPN),
        Peer(name="easyfsl LaplacianShot (transductive)", make=lambda: LaplacianShot(feature_normalization=2.0)),
        Peer(name="easyfsl TIM (transductive)", make=TIM),
    ]


def least_right(
    engine: TaskEngine,
    models: Sequence[TaskModel],
    attack: Attack,
    x: Images,
    y: Labels,
    crafted: dict[ModelsKey, Images],
) -> float:
    """The share of right answers under what hurts `models` most of what was crafted through them and through simpler ones.

    `crafted` remembers what was crafted through whom, for the other methods of the task.
    """
    tried = {tuple(model.key for model in part): part for part in attacked_through(models)}
    for key, part in tried.items():
        if key not in crafted:
            crafted[key] = _crafted(engine, part, attack, x, y)
    classifier = engine.classifier(models)
    # whole batches: a transductive head answers them as one
    return min(share(predict(classifier, crafted[key], batch_size=len(x)), y) for key in tried)


def _crafted(engine: TaskEngine, models: Sequence[TaskModel], attack: Attack, x: Images, y: Labels) -> Images:
    classifier = engine.classifier(models)
    if not attack.traits.layers:
        return attack(classifier, x, y)
    # a layer is read in one pass: of the images that fit, or of all where they are answered together
    count = len(x)
    if not any(model.head.transduction for model in models):
        count = max(1, min(images_at_once(model.features, x) for model in models) // len(models))
    with memory_bound(math.inf):
        parts = zip(torch.split(x, count), torch.split(y, count), strict=True)
        return torch.cat([attack(classifier, *part) for part in parts])
