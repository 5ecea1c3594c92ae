"""The methods that are measured beside each other, and those that take the full one apart."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.types import Attack, Images, Labels
from loradar.fewshot.blending import Scoring
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.engine import AVERAGE, BASE, Method, Recipe, Tools, View, Voter, VotersKey, attacked_through
from loradar.fewshot.heads import CENTROID, HeadConfig
from loradar.fewshot.pools import blending_of
from loradar.fewshot.transduction import Transduction

FULL, NO_TUNING, CLEAN, RANDOM = "AMT", "no tuning", "clean meta-tuning (PMF)", "one adapter, random budgets"
SEARCHED, TUNED, TOGETHER = "AMT, settings searched", "AMT-FT", "AMT, transductive"
MAIN_METHODS = (FULL, TOGETHER, NO_TUNING, CLEAN, RANDOM)
"""The full method, and those that it is to be compared with first."""
CHOSEN = "single member by a classifier of validation tasks"
OTHERWISE: dict[Scoring, tuple[str, Scoring]] = {
    "compactness": ("AMT, members scored by loss", "loss"),
    "loss": ("AMT, members scored by compactness", "compactness"),
    "attacked": ("AMT, members scored by compactness", "compactness"),
}
"""By how the full method scores members: the row beside it that scores them the other way."""
UNPERTURBED = "one adapter, random budgets, unperturbed"
BY_CENTROID, UNTRIMMED = "AMT, nearest centroid", "AMT without trimming"
_AT_LAST = "last features"
_FOLDERS = {CLEAN: "clean", RANDOM: "random-budget", UNPERTURBED: "random-budget-unperturbed"}


def recipe_of(config: FewShotEvalConfig) -> Recipe:
    """The full method with the settings of `config`."""
    return Recipe(
        blending=blending_of(config), rank_keep_ratio=config.rank_keep_ratio, head=HeadConfig(kind=config.head)
    )


def ablation_chain(recipe: Recipe) -> dict[str, str]:
    """The components, each added to those before it, and the method that has all of them so far."""
    steps = {
        "adversarial query": UNPERTURBED,
        "+ perturbed singular values and vectors": RANDOM,
        "+ pool (average of weights)": "average of weights",
        "+ blending": UNTRIMMED,
    }
    if recipe.head == CENTROID:
        return steps | {"+ trimming (the full method)": FULL}
    last = "+ trimming" if recipe.rank_keep_ratio < 1 else "+ blending"
    return steps | {last: BY_CENTROID, f"+ {recipe.head.kind} head (the full method)": FULL}


def methods(
    tools: Tools,
    recipe: Recipe,
    config: FewShotEvalConfig,
    *,
    searched: Recipe | None,
    choose: Callable[[View], str] | None,
) -> list[Method]:
    """The full method first, then every baseline, then what takes it apart; `choose` names a member for a task."""
    found = [_blend(FULL, recipe)]
    found += [_blend(SEARCHED, searched)] if searched else []
    if config.transductive:
        together = dataclasses.replace(recipe.head, transduction=Transduction())
        found.append(_blend(TOGETHER, dataclasses.replace(recipe, head=together)))
        found += [_fixed(f"{name}, transductive", weights, head=together) for name, weights in _peers_of(tools)]
    found.append(_fixed(NO_TUNING, BASE))
    found += [_fixed(name, folder) for name, folder in _FOLDERS.items() if folder in tools.fixed]
    found += [
        Method(name="single member by support loss", voters=lambda view: [view.of_least_loss()]),
        _fixed("average of weights", AVERAGE),
        Method(name="average of logits", voters=lambda view: [view.fixed(name) for name in view.tools.pool]),
    ]
    if choose:
        found.append(Method(name=CHOSEN, voters=lambda view: [view.fixed(choose(view))]))
    name, other = OTHERWISE[recipe.blending.by]
    found.append(_blend(name, dataclasses.replace(recipe, blending=dataclasses.replace(recipe.blending, by=other))))
    return found + _other_heads(tools, recipe) + (_taken_apart(tools, recipe) if config.ablations else [])


def _other_heads(tools: Tools, recipe: Recipe) -> list[Method]:
    """The full method without its own head and trimming, its peers with that head, and some on the last features alone."""
    by_centroid, found = dataclasses.replace(recipe, head=CENTROID), []
    if recipe.head != by_centroid.head:
        found.append(_blend(BY_CENTROID, by_centroid))
        named = f"{recipe.head.kind} head"
        found += [_fixed(f"{name}, {named}", weights, head=recipe.head) for name, weights in _peers_of(tools)]
    if recipe.rank_keep_ratio < 1:
        found.append(_blend(UNTRIMMED, dataclasses.replace(by_centroid, rank_keep_ratio=1.0)))
    if tools.last:
        last = HeadConfig(last=tools.last)
        found.append(_blend(f"{FULL}, nearest centroid, {_AT_LAST}", dataclasses.replace(recipe, head=last)))
        found.append(_fixed(f"{NO_TUNING}, {_AT_LAST}", BASE, head=last))
        if _FOLDERS[CLEAN] in tools.fixed:
            found.append(_fixed(f"{CLEAN}, {_AT_LAST}", _FOLDERS[CLEAN], head=last))
    return found


def _peers_of(tools: Tools) -> list[tuple[str, str]]:
    """The baselines of one set of weights each that are measured under the full method's heads too, and their weights."""
    tuned = [(name, _FOLDERS[name]) for name in (CLEAN, RANDOM) if _FOLDERS[name] in tools.fixed]
    return [(NO_TUNING, BASE), *tuned]


def _taken_apart(tools: Tools, recipe: Recipe) -> list[Method]:
    untrimmed = dataclasses.replace(recipe, rank_keep_ratio=1.0)
    names, own = list(tools.pool), recipe.blending
    found = [_fixed(f"member {name}", name, head=recipe.head, attacked=False) for name in names]
    for top in range(1, len(names) + 1):
        # under the nearest centroid, the full method without trimming is this very row
        if top != own.top or recipe.head != CENTROID:
            part = dataclasses.replace(untrimmed, blending=dataclasses.replace(own, top=top))
            found.append(_blend(f"top-{top}, untrimmed", part, full=False))
    # the first members of the pool are those of the smallest budgets, so the other end goes first
    for size in range(2, len(names)):
        part = dataclasses.replace(untrimmed, members=tuple(names[-size:]))
        found.append(_blend(f"pool of {size}, untrimmed", part, full=False))
    return found


def _fixed(name: str, weights: str, *, head: HeadConfig = CENTROID, attacked: bool = True) -> Method:
    return Method(name=name, voters=lambda view: [view.fixed(weights, head)], attacked=attacked)


def _blend(name: str, recipe: Recipe, *, full: bool = True) -> Method:
    return Method(name=name, voters=lambda view: [view.blended(recipe)], attacked=full, corrupted=full)


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
        return float((scores.argmax(1) == query_labels).float().mean())


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


@torch.no_grad()
def answers(view: View, voters: Sequence[Voter], query: Tensor | None) -> Tensor:
    """(n,) answers to the task's own query (None), through remembered features where there are any, or to `query`."""
    logits = []
    for voter in voters:
        if query is None and voter.is_fixed:
            features = view.bank.features(voter.name, view.task.episode.query)
        else:
            features = voter.model(view.task.query if query is None else query).float()
        logits.append(view.head(voter)(features))
    return torch.stack(logits).mean(0).argmax(1)


def share(answered: Tensor, labels: Tensor) -> float:
    """Of right answers."""
    return float((answered == labels).float().mean())


def least_right(
    view: View, voters: Sequence[Voter], attack: Attack, x: Images, y: Labels, crafted: dict[VotersKey, Images]
) -> float:
    """The share of right answers under what hurts `voters` most of what was crafted through them and through simpler ones.

    `crafted` remembers what was crafted through whom, for the other methods of the task.
    """
    tried = {tuple(voter.key for voter in part): part for part in attacked_through(voters)}
    for key, part in tried.items():
        if key not in crafted:
            crafted[key] = attack(view.classifier(part), x, y)
    model = view.classifier(voters)
    with torch.no_grad():
        return min(share(model(crafted[key]).argmax(1), y) for key in tried)
