"""A folder of images by class becomes an adapter: in seconds, unless it is tuned."""

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from loradar.adapters import (
    Adapter,
    AdapterPool,
    add_weighted,
    feature_extractor,
    find_head,
    full_adapter,
    merge_weights,
    save,
    truncate_spectrum,
    truncated,
)
from loradar.core.errors import BadConfigError, BadDataError
from loradar.core.modules import unwrap
from loradar.core.types import Images, Labels
from loradar.data import load_source, varied
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotFitConfig
from loradar.fewshot.finetune import FineTuning
from loradar.fewshot.heads import CENTROID, Centroids, HeadConfig, Ridge
from loradar.fewshot.pools import attacked_score, base_of, blending_of, copies_of, open_pool
from loradar.fewshot.prototypes import prototypes_of
from loradar.fewshot.tasks import first_of_each
from loradar.models import Base, Precision, foldable_conv_bn, open_base, optimize_for_inference

FEW_SHOT, HEAD = "few_shot", "head_kind"
MOST_TUNED = 500
"""Images that are fine-tuned on at once: the largest support of PMF's variable tasks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A task's adapter; the weight of each member; seconds of each step; the relative error of truncation, if any; the rate
    that fine-tuning chose, if it was asked for: at 0 the blend was left as it is."""

    adapter: Adapter
    weights: dict[str, float]
    seconds: dict[str, float]
    error: float | None
    rate: float | None


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Seconds by the name of what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


def few_shot_fit(config: FewShotFitConfig) -> Fitted:
    """Blends the pool for the images of `config.support`, trims, and writes the adapter to `config.out`.

    Its head is made of the images, so that the plugged base answers the classes of the folder. With `fine_tune` the blend is
    then tuned on the images (AMT-FT), and the adapter holds every weight, unless no rate did better than none. Raises
    LoradarError.
    """
    if config.fine_tune and config.rank is not None:
        raise BadConfigError("fine_tune moves every weight, and rank asks for a low-rank blend; give one of the two")
    pool = open_pool(config.pool)
    spec = config.base or base_of(config.pool)
    base = open_base(spec, config.device)
    x, y, classes = support_of(config.support, config.shot, base)
    if config.fine_tune and len(y) > MOST_TUNED:
        raise BadDataError(
            f"{config.support} has {len(y)} images; fine_tune takes all of them at once, {MOST_TUNED} at most: give --shot"
        )
    fitter = Fitter.of(
        base,
        pool,
        blending=blending_of(config),
        rank_keep_ratio=config.rank_keep_ratio,
        copies=config.copies,
        head=HeadConfig(kind=config.head),
        precision=config.precision,
        seed=config.seed,
    )
    fitted = fitter(x, y, classes, rank=config.rank, fine_tune=config.fine_tune)
    data = {**fitted.adapter.card.data, "base": spec, "support": config.support, "shot": config.shot, "images": len(y)}
    adapter = fitted.adapter.with_card(name=config.out.name, data=data)
    save(adapter, config.out, base.model)
    return dataclasses.replace(fitted, adapter=adapter)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitter:
    """A pool on its base, ready for tasks: every member's merged weights are there already."""

    base: nn.Module
    pool: AdapterPool
    members: dict[str, nn.Module]
    features: nn.Module
    blending: Blending
    rank_keep_ratio: float
    copies: int
    head: HeadConfig
    seed: int

    @classmethod
    def of(
        cls,
        base: Base,
        pool: AdapterPool,
        *,
        blending: Blending,
        rank_keep_ratio: float,
        copies: int,
        head: HeadConfig = CENTROID,
        precision: Precision = "auto",
        seed: int = 0,
    ) -> "Fitter":
        """Members are scored in `precision`; the head is computed in that of the weights.

        Raises WrongBaseError for a pool of another base, BadConfigError for a head that the base cannot hold.
        """
        model = base.model
        _check_head(model, head)
        device = next(model.parameters()).device
        pool = AdapterPool({name: adapter.to(device) for name, adapter in pool.items()})
        features = feature_extractor(model)
        merge = foldable_conv_bn(features)
        members = {
            name: optimize_for_inference(feature_extractor(merge_weights(model, adapter)), precision, merge=merge)
            for name, adapter in pool.items()
        }
        return cls(
            base=model,
            pool=pool,
            members=members,
            features=features,
            blending=blending,
            rank_keep_ratio=rank_keep_ratio,
            copies=copies,
            head=head,
            seed=seed,
        )

    @torch.no_grad()
    def __call__(
        self, x: Images, y: Labels, classes: Sequence[str], *, rank: int | None = None, fine_tune: bool = False
    ) -> Fitted:
        """The adapter of a task: support images (n, 3, H, W) in [0, 1] with labels that count through `classes`."""
        watch, way = Stopwatch(), len(classes)
        device = next(self.base.parameters()).device
        x, y = x.to(device), y.to(device)
        with watch("features"):
            copies = copies_of(x, self.copies, self.seed)
            scores = [self._score(member, x, copies, y, way) for member in self.members.values()]
        with watch("blend"):
            shares = self.blending.weights(torch.tensor(scores)).tolist()
            weights = dict(zip(self.pool, shares, strict=True))
            adapter = add_weighted(self.pool, {name: weight for name, weight in weights.items() if weight})
        with watch("trim"):
            adapter, error = truncate_spectrum(self.base, adapter, self.rank_keep_ratio), None
            if rank is not None:
                adapter = truncated(adapter, rank)
                error = float(adapter.card.data["truncated"]["relative_error"])
        rate = None
        if fine_tune:
            with watch("fine-tune"):
                adapter, rate = self._tuned(adapter, x, y, way)
        with watch("head"):
            head = self.head(merge_weights(self.features, adapter, check=False)(x), y, way)
            adapter = _headed(self.base, adapter, head, tuple(classes), weights)
        return Fitted(adapter=adapter, weights=weights, seconds=watch.seconds, error=error, rate=rate)

    @torch.enable_grad()
    def _tuned(self, blend: Adapter, x: Images, y: Labels, way: int) -> tuple[Adapter, float]:
        """All weights of the blend, tuned on the support, and the rate that the support chose; the blend itself at rate 0."""
        folded = merge_weights(self.features, blend, check=False)
        tuned, rate = FineTuning()(lambda: copy.deepcopy(folded), x, y, way=way, augment=varied, seed=self.seed)
        data = {**blend.card.data, "fine_tuned_at_rate": rate}
        return (full_adapter(self.base, weights=tuned, seed=self.seed) if rate else blend).with_card(data=data), rate

    def _score(self, member: nn.Module, x: Images, copies: Images, y: Labels, way: int) -> float:
        if self.blending.by == "attacked":
            return attacked_score(self.blending, member, x, copies, y, way)
        prototypes = prototypes_of(member(x), y, way)
        return self.blending.score(member(copies), y.repeat(self.copies), prototypes)


def _check_head(base: nn.Module, rule: HeadConfig) -> None:
    find_head(base)
    if rule.last is not None:
        raise BadConfigError("an adapter's head reads all features of its base; expected a rule without `last`")


def _headed(
    base: nn.Module, adapter: Adapter, head: nn.Module, classes: tuple[str, ...], weights: dict[str, float]
) -> Adapter:
    """The adapter with the task's head as its own.

    Of centroids the rows get length 1: the largest logit is then the largest cosine. Neither kind has a bias: the plugged
    logits are those of the head times the length of the features, the answers the same, a softmax is not.
    """
    name = find_head(base)
    weight = head.weight if isinstance(head, Ridge) else F.normalize(cast(Centroids, head).prototypes, dim=1)
    modules_to_save = {**adapter.modules_to_save, f"{name}.weight": nn.Parameter(weight)}
    if unwrap(base).get_submodule(name).bias is not None:
        modules_to_save[f"{name}.bias"] = nn.Parameter(weight.new_zeros(len(weight)))
    data = {**adapter.card.data, FEW_SHOT: weights, HEAD: "ridge" if isinstance(head, Ridge) else "centroid"}
    return dataclasses.replace(adapter, modules_to_save=modules_to_save).with_card(
        head=name, classes=classes, data=data
    )


def support_of(spec: str, shot: int | None, base: Base) -> tuple[Images, Labels, tuple[str, ...]]:
    """The images to fit on, the first `shot` of each class, with labels and classes. Raises BadDataError for too few."""
    source = load_source(spec, size=base.input_size[1:])
    images = source.train
    counts = torch.bincount(images.labels, minlength=len(source.classes))
    if len(counts) < 2:
        raise BadDataError(f"{spec} has {len(counts)} class; a task needs 2 or more")
    wanted = shot or 1
    if int(counts.min()) < wanted:
        worst = int(counts.argmin())
        raise BadDataError(
            f"class {source.classes[worst]!r} has {int(counts[worst])} images, {wanted} shots asked for; bring more images "
            "of it, or ask for fewer"
        )
    chosen = first_of_each(images, shot)
    x, y = chosen.fetch(torch.arange(len(chosen)))
    return x, y, source.classes
