"""The models of one few-shot task: fixed weights whose features are remembered, and blends made for the task."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import (
    Adapter,
    AdapterPool,
    add_weighted,
    feature_extractor,
    load,
    merge_weights,
    truncate_spectrum,
)
from loradar.core.errors import BadConfigError
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG
from loradar.core.types import Images
from loradar.data import varied
from loradar.fewshot.blending import Blending
from loradar.fewshot.heads import CENTROID, HeadConfig, TaskClassifier
from loradar.fewshot.pools import BASELINES, attacked_score, copies_of
from loradar.fewshot.prototypes import MeanLogits, cosine_logits, prototypes_of
from loradar.fewshot.tasks import Domain, Task
from loradar.models import (
    Base,
    MultiStageFeatures,
    Pair,
    Precision,
    foldable_conv_bn,
    optimize_for_inference,
    skip_padding,
)

BASE, AVERAGE = "base", "average"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tools:
    """A pool on its base, and all weights that do not depend on a task: features before the head, by name."""

    base: Base
    pool: AdapterPool
    fixed: Mapping[str, nn.Module]
    features: nn.Module
    merge: tuple[Pair, ...]
    precision: Precision
    copies: int
    seed: int

    @classmethod
    def of(
        cls, base: Base, pool: AdapterPool, folder: Path, *, precision: Precision, copies: int, seed: int
    ) -> "Tools":
        """The base, every member, their average, and the baselines that `folder` holds. Raises WrongBaseError."""
        features = feature_extractor(base.model)
        device = next(features.parameters()).device
        pool = AdapterPool({name: adapter.to(device) for name, adapter in pool.items()})
        # checked once against the base with its head, which is what the members were made for
        for adapter in pool.values():
            merge_weights(base.model, adapter)
        adapters: dict[str, Adapter] = dict(pool)
        adapters[AVERAGE] = add_weighted(pool, {name: 1 / len(pool) for name in pool})
        for path in sorted((folder / BASELINES).glob(f"*/{ADAPTER_CONFIG}")):
            adapters[path.parent.name] = load(path.parent).to(device)
        fixed = {
            name: skip_padding(merge_weights(features, adapter, check=False)) for name, adapter in adapters.items()
        }
        return cls(
            base=base,
            pool=pool,
            fixed={BASE: skip_padding(feature_extractor(base.model)), **fixed},
            features=features,
            merge=foldable_conv_bn(features),
            precision=precision,
            copies=copies,
            seed=seed,
        )

    @cached_property
    def frozen_members(self) -> dict[str, nn.Module]:
        """The members as they are attacked."""
        return {name: optimize_for_inference(self.fixed[name], self.precision, merge=self.merge) for name in self.pool}

    @property
    def last(self) -> int | None:
        """How many of the features are the last layer's own, where the base shows those of several stages."""
        backbone = unwrap(self.base.model)
        return backbone.last if isinstance(backbone, MultiStageFeatures) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCache:
    """Features of a domain's images under fixed weights: each image goes through each of them once."""

    tools: Tools
    domain: Domain
    batch_size: int
    rows: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)

    def features(self, name: str, indices: Tensor, *, copy: int = 0) -> Tensor:
        """(len(indices), d) under the weights `name`; of the `copy`-th augmented copy, 0 being the image itself."""
        wanted = indices.tolist()
        missing = [i for i in dict.fromkeys(wanted) if (name, i, copy) not in self.rows]
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            x, _ = self.domain.images.fetch(torch.tensor(part))
            x = varied(x, self.tools.seed + copy) if copy else x
            for index, row in zip(part, _through(self.tools.fixed[name], x), strict=True):
                self.rows[name, index, copy] = row
        return torch.stack([self.rows[name, i, copy] for i in wanted])


@torch.no_grad()
def _through(model: nn.Module, x: Images) -> Tensor:
    features: Tensor = model(x.to(next(model.parameters()).device))
    return features.float()


@dataclass(frozen=True, kw_only=True, eq=False)
class Voter:
    """A model of features with a name (equal names, within one task, are equal weights), and how its head is made."""

    name: str
    model: nn.Module
    is_fixed: bool
    head: HeadConfig = CENTROID

    @property
    def key(self) -> tuple[str, HeadConfig]:
        """What makes two voters of a task the same classifier."""
        return self.name, self.head


VotersKey = tuple[tuple[str, HeadConfig], ...]
"""The `key` of each of several voters."""


def attacked_through(voters: Sequence[Voter]) -> list[list[Voter]]:
    """What an attack on `voters` climbs: themselves, and where they answer together also simpler heads of the same weights.

    Many rounds of transduction are hard to climb: ten steps against one round, or against each query alone, are often the
    stronger attack on all of them.
    """
    tried = [list(voters)]
    if any(voter.head.transduction for voter in voters):
        for rounds in (1, None):
            simpler = [_simpler(voter, rounds) for voter in voters]
            if [voter.key for voter in simpler] != [voter.key for voter in voters]:
                tried.append(simpler)
    return tried


def _simpler(voter: Voter, rounds: int | None) -> Voter:
    """With no more rounds of transduction than that, or without any."""
    rule = voter.head.transduction
    if rule is None:
        return voter
    fewer = None if rounds is None else dataclasses.replace(rule, rounds=min(rounds, rule.rounds))
    return dataclasses.replace(voter, head=dataclasses.replace(voter.head, transduction=fewer))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a blend is made: scores to weights, the share of singular values kept, out of which members, under which head."""

    blending: Blending
    rank_keep_ratio: float = 1.0
    members: tuple[str, ...] | None = None
    head: HeadConfig = CENTROID


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One task as the methods see it. Models made for it are made once."""

    tools: Tools
    bank: FeatureCache
    task: Task
    made: dict[str, Voter] = field(default_factory=dict)
    attacked_scores: dict[str, float] = field(default_factory=dict)

    def fixed(self, name: str, head: HeadConfig = CENTROID) -> Voter:
        """Raises BadConfigError for weights that the pool's folder does not hold."""
        if name not in self.tools.fixed:
            raise BadConfigError(f"the pool's folder holds no {name!r}; meta-tune it with baselines (or ablations)")
        return Voter(name=name, model=self.tools.fixed[name], is_fixed=True, head=head)

    def head(self, voter: Voter) -> nn.Module:
        """From the voter's features to logits, made of the support."""
        if voter.is_fixed:
            features = self.bank.features(voter.name, self.task.episode.support)
        else:
            features = self.through(voter, self.task.support)
        return voter.head(features, self.task.support_labels, self.task.way)

    def prototypes(self, name: str) -> Tensor:
        """(way, d) under fixed weights."""
        features = self.bank.features(name, self.task.episode.support)
        return prototypes_of(features, self.task.support_labels, self.task.way)

    def through(self, voter: Voter, x: Images) -> Tensor:
        """(n, d) features of any images."""
        return _through(voter.model, x)

    def copies(self, name: str) -> tuple[Tensor, Tensor]:
        """Features of the augmented copies of the support under fixed weights, and their labels."""
        count = self.tools.copies
        found = [self.bank.features(name, self.task.episode.support, copy=1 + i) for i in range(count)]
        return torch.cat(found), self.task.support_labels.repeat(count)

    def weights(self, recipe: Recipe) -> dict[str, float]:
        """The share of each member in the blend for this task, by the support alone."""
        names = list(recipe.members or self.tools.pool)
        scores = [self._score(recipe.blending, name) for name in names]
        return dict(zip(names, recipe.blending.weights(torch.tensor(scores)).tolist(), strict=True))

    def _score(self, blending: Blending, name: str) -> float:
        if blending.by != "attacked":
            features, labels = self.copies(name)
            return blending.score(features, labels, self.prototypes(name))
        if name not in self.attacked_scores:
            task, tools = self.task, self.tools
            copies = copies_of(task.support, tools.copies, tools.seed)
            member = tools.frozen_members[name]
            score = attacked_score(blending, member, task.support, copies, task.support_labels, task.way)
            self.attacked_scores[name] = score
        return self.attacked_scores[name]

    def blended(self, recipe: Recipe) -> Voter:
        """The weighted sum of members, trimmed: W_res + sum of weight_i B_i A_i."""
        used = {name: weight for name, weight in self.weights(recipe).items() if weight}
        rank_keep_ratio = recipe.rank_keep_ratio
        if len(used) == 1 and rank_keep_ratio == 1:
            return self.fixed(next(iter(used)), recipe.head)
        name = f"{used} {rank_keep_ratio:g}"
        if name not in self.made:
            adapter = truncate_spectrum(self.tools.base.model, add_weighted(self.tools.pool, used), rank_keep_ratio)
            model = skip_padding(merge_weights(self.tools.features, adapter, check=False))
            self.made[name] = Voter(name=name, model=model, is_fixed=False)
        return dataclasses.replace(self.made[name], head=recipe.head)

    def of_least_loss(self) -> Voter:
        """The member whose augmented support is classified with the smallest cross-entropy."""
        losses = {}
        for name in self.tools.pool:
            features, labels = self.copies(name)
            losses[name] = float(F.cross_entropy(cosine_logits(features, self.prototypes(name)), labels))
        return self.fixed(min(losses, key=lambda name: losses[name]))

    def classifier(self, voters: Sequence[Voter]) -> nn.Module:
        """The task's classifier as it is attacked and deployed, in the precision asked for."""
        tools = self.tools
        found: list[nn.Module] = [
            TaskClassifier(optimize_for_inference(voter.model, tools.precision, merge=tools.merge), self.head(voter))
            for voter in voters
        ]
        return found[0] if len(found) == 1 else MeanLogits(found)

    @cached_property
    def clean_base_query(self) -> Tensor:
        return self.bank.features(BASE, self.task.episode.query)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to classify a task: which models vote. `attacked` and `corrupted` say whether it is measured so."""

    name: str
    voters: Callable[[View], Sequence[Voter]]
    attacked: bool = True
    corrupted: bool = True
