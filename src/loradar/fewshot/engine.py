"""The models of one few-shot task: fixed weights whose features are remembered, and blends made for its support.

Evaluation, search, pictures, `few-shot fit` and `FewShotClassifier` all ask this engine, so what is evaluated is what is
shipped.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import Adapter, add_weighted, truncate_spectrum
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack, Images, NullProgress, ProgressBar
from loradar.data import varied
from loradar.fewshot.blending import Blending, attacked_score
from loradar.fewshot.choosing import Evidence, evidence, greedy_soup
from loradar.fewshot.folds import can_be_left_out
from loradar.fewshot.heads import (
    CENTROID,
    HeadConfig,
    MeanLogits,
    TaskClassifier,
    cosine_logits,
    linear,
    prototypes_of,
    unit_weight,
)
from loradar.fewshot.held_out import HeldOut, left_out, on_copies
from loradar.fewshot.pools import BASE, FeatureCache, PoolModels, features_of
from loradar.fewshot.tasks import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskModel:
    """A feature extractor with a name (equal names, within one task, are equal weights), and how its head is made."""

    name: str
    features: nn.Module
    is_fixed: bool
    head: HeadConfig = CENTROID

    @property
    def key(self) -> tuple[str, HeadConfig]:
        """What makes two models of a task the same classifier."""
        return self.name, self.head


ModelsKey = tuple[tuple[str, HeadConfig], ...]
"""The `key` of each of several models."""


def attacked_through(models: Sequence[TaskModel]) -> list[list[TaskModel]]:
    """What an attack on `models` climbs: themselves, and for transductive heads also simpler heads on the same weights.

    Many rounds of transduction are hard to climb: ten steps against one round, or against each query alone, are often the
    stronger attack on all of them.
    """
    tried = [list(models)]
    if any(model.head.transduction for model in models):
        for rounds in (1, None):
            simpler = [_simpler(model, rounds) for model in models]
            if [model.key for model in simpler] != [model.key for model in models]:
                tried.append(simpler)
    return tried


def _simpler(model: TaskModel, rounds: int | None) -> TaskModel:
    """With no more rounds of transduction than that, or without any."""
    rule = model.head.transduction
    if rule is None:
        return model
    fewer = None if rounds is None else dataclasses.replace(rule, rounds=min(rounds, rule.rounds))
    return dataclasses.replace(model, head=dataclasses.replace(model.head, transduction=fewer))


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Seconds by the name of what they were spent on; `bar` advances with each."""

    seconds: dict[str, float] = field(default_factory=dict)
    bar: ProgressBar = field(default_factory=lambda: NullProgress().task("", 0))

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
        self.bar.advance()


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskEngine:
    """One task: members scored on its support, blended and trimmed, and heads made of it. Blends are made once."""

    models: PoolModels
    cache: FeatureCache
    task: Task
    blends: dict[str, TaskModel] = field(default_factory=dict)
    attacked_scores: dict[str, float] = field(default_factory=dict)
    judged: dict[tuple[str, HeadConfig, str], Evidence] = field(default_factory=dict)

    def fixed(self, name: str, head: HeadConfig = CENTROID) -> TaskModel:
        """Raises BadConfigError for weights that the pool's folder does not hold."""
        if name not in self.models.fixed:
            raise BadConfigError(f"the pool's folder holds no {name!r}; meta-tune it with baselines (or ablations)")
        return TaskModel(name=name, features=self.models.fixed[name], is_fixed=True, head=head)

    def head(self, model: TaskModel) -> nn.Module:
        """Makes the head of the support: from the model's features (m, d) to logits (m, way)."""
        return model.head(self._support_features(model), self.task.support_labels, self.task.way)

    def _shipped_head(self, model: TaskModel) -> nn.Module:
        """The head as an adapter holds it, where it can: what is attacked is what is plugged."""
        if model.head.transduction is not None or model.head.last is not None:
            return self.head(model)
        return linear(self.linear_weight(model))

    def linear_weight(self, model: TaskModel) -> Tensor:
        """Makes the head of the support as one linear layer without a bias, (way, d), as an adapter holds it.

        Its answers are those of `head` without transduction, its logits on the scale that suits held-out images.
        """
        plain = dataclasses.replace(model, head=dataclasses.replace(model.head, transduction=None))
        held_out, _ = self.held_out(plain)
        return unit_weight(self.head(plain)) * (held_out.temperature / held_out.length)

    def _support_features(self, model: TaskModel) -> Tensor:
        """(n, d)"""
        if model.is_fixed:
            return self.cache.features(model.name, self.task.episode.support)
        return features_of(model.features, self.task.support)

    def prototypes(self, name: str) -> Tensor:
        """Returns the prototypes (way, d) under fixed weights."""
        features = self.cache.features(name, self.task.episode.support)
        return prototypes_of(features, self.task.support_labels, self.task.way)

    def augmented(self, name: str) -> tuple[Tensor, Tensor]:
        """Returns features of the augmented support under fixed weights, and their labels."""
        count = self.models.n_augmentations
        found = [self.cache.features(name, self.task.episode.support, copy=1 + i) for i in range(count)]
        return torch.cat(found), self.task.support_labels.repeat(count)

    def held_out(self, model: TaskModel) -> tuple[HeldOut, Images]:
        """Returns how the head of `model` answers images that it did not see, and these images.

        They are those of the support, each left out in turn; or augmented copies of them, where a class has one image.
        """
        task, head = self.task, dataclasses.replace(model.head, transduction=None)
        labels, way = task.support_labels, task.way
        features = self._support_features(model)
        if can_be_left_out(labels, way):
            return left_out(head, features, labels, way), task.support
        copies = self._copies()
        seen = self.augmented(model.name)[0] if model.is_fixed else features_of(model.features, copies)
        return on_copies(head, features, labels, way, seen), copies

    def _copies(self) -> Images:
        """The augmented support, whose features `augmented` gives."""
        count, seed = self.models.n_augmentations, self.models.seed
        return torch.cat([varied(self.task.support, seed + 1 + i) for i in range(count)])

    def evidence(self, model: TaskModel, attack: Attack) -> Evidence:
        """Asks `model` for images of the support that its head did not see, as they are and attacked."""
        key = model.name, model.head, attack.spec
        if key not in self.judged:
            held_out, images = self.held_out(model)
            models = self.models
            member = models.optimized_fixed(model.name) if model.is_fixed else models.optimized(model.features)
            self.judged[key] = evidence(held_out, images, member, attack)
        return self.judged[key]

    def weights(self, blending: Blending) -> dict[str, float]:
        """Computes the share of each member in the blend for this task, by the support alone.

        By held-out images the untuned base is one of the members.
        """
        names = list(blending.members or self.models.members)
        if blending.score == "held-out":
            ask = partial(self._evidence_of_blend, blending)
            return greedy_soup(
                [BASE, *names], ask, robust=blending.robust, images=len(self.task.support), top=blending.top
            )
        scores = [self._score(blending, name) for name in names]
        return dict(zip(names, blending.weights_of(torch.tensor(scores)).tolist(), strict=True))

    def _score(self, blending: Blending, name: str) -> float:
        if blending.score != "attacked":
            features, labels = self.augmented(name)
            return blending.score_of(features, labels, self.prototypes(name))
        if name not in self.attacked_scores:
            task, models = self.task, self.models
            member = models.optimized_fixed(name)
            score = attacked_score(blending, member, task.support, self._copies(), task.support_labels, task.way)
            self.attacked_scores[name] = score
        return self.attacked_scores[name]

    @torch.no_grad()
    def merged(self, weights: Mapping[str, float], rank_keep_ratio: float, watch: Stopwatch | None = None) -> Adapter:
        """Blends members, the base among them: W_res + sum of weight_i B_i A_i, trimmed, as an adapter."""
        watch = watch or Stopwatch()
        with watch("blend"):
            adapter = add_weighted(self.models.as_pool, weights)
        with watch("trim"):
            return truncate_spectrum(self.models.base, adapter, rank_keep_ratio)

    def blended(self, blending: Blending) -> TaskModel:
        """Returns the model of the blend."""
        return self._blend(blending, self.weights(blending))

    def _evidence_of_blend(self, blending: Blending, weights: Mapping[str, float]) -> Evidence:
        return self.evidence(self._blend(blending, weights), blending.attack)

    def _blend(self, blending: Blending, weights: Mapping[str, float]) -> TaskModel:
        used = {name: weight for name, weight in weights.items() if weight}
        ratio = blending.rank_keep_ratio
        if set(used) == {BASE} or (len(used) == 1 and ratio == 1):
            return self.fixed(next(iter(used)), blending.head)
        name = f"{used} {ratio:g}"
        if name not in self.blends:
            features = self.models.with_adapter(self.merged(used, ratio))
            self.blends[name] = TaskModel(name=name, features=features, is_fixed=False)
        return dataclasses.replace(self.blends[name], head=blending.head)

    def of_least_loss(self) -> TaskModel:
        """Returns the member whose augmented support is classified with the smallest cross-entropy."""
        losses = {}
        for name in self.models.members:
            features, labels = self.augmented(name)
            losses[name] = float(F.cross_entropy(cosine_logits(features, self.prototypes(name)), labels))
        return self.fixed(min(losses, key=lambda name: losses[name]))

    def classifier(self, models: Sequence[TaskModel]) -> nn.Module:
        """Makes the task's classifier as it is attacked, in the precision asked for: the mean of the logits of `models`."""
        found: list[nn.Module] = [
            TaskClassifier(self.models.optimized(model.features), self._shipped_head(model)) for model in models
        ]
        return found[0] if len(found) == 1 else MeanLogits(found)

    @torch.no_grad()
    def answers(self, models: Sequence[TaskModel], query: Images | None = None) -> Tensor:
        """Returns answers (n,) to `query`, or to the task's own, through remembered features where there are any."""
        logits = []
        for model in models:
            if query is None and model.is_fixed:
                features = self.cache.features(model.name, self.task.episode.query)
            else:
                features = features_of(model.features, self.task.query if query is None else query)
            logits.append(self.head(model)(features))
        return torch.stack(logits).mean(0).argmax(1)
