"""A support becomes an adapter with a head of its own: in seconds, unless it is tuned."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loradar.adapters import (
    Adapter,
    AdapterPool,
    feature_extractor,
    find_head,
    find_heads,
    full_adapter,
    init_adapter,
    load,
    merge_weights,
    save,
    truncated,
)
from loradar.core.errors import BadConfigError, BadDataError, BadFileError
from loradar.core.files import check_place
from loradar.core.leases import lease
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG
from loradar.core.types import Images, Labels, NullProgress, Progress, Threat
from loradar.data import Source, load_source, varied
from loradar.evaluation import NO_ATTACK, AccuracyResult, device_of
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotFitConfig
from loradar.fewshot.engine import Stopwatch, TaskEngine, TaskModel
from loradar.fewshot.finetune import FineTuning
from loradar.fewshot.folds import can_be_left_out
from loradar.fewshot.heads import HeadConfig, HeadKind, TaskClassifier, linear
from loradar.fewshot.pools import BASE, FeatureCache, PoolModels, base_of, head_of_pool, open_pool
from loradar.fewshot.tasks import Task, first_of_each, in_order
from loradar.fewshot.transduction import Transduction
from loradar.models import Base, open_base, skip_padding

FEW_SHOT, HEAD, LABELS, HELD_OUT = "few_shot", "head_kind", "labels", "held_out"
"""What a card's data call the weights of the members, the kind of the head, the labels that the classes stand for where
these are not the card's own names, and the right answers to images that the head did not see."""
MOST_TUNED = 500
"""Images that are fine-tuned on at once: the largest support of PMF's variable tasks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A task's adapter, and the classifier that it makes of the base: images (n, c, h, w) to logits (n, way).

    Also how it ("task") and the untuned base answer images of the support that their heads did not see, clean and attacked:
    each was left out in turn. `flattered` says why the accuracy is too high, where it is: a class has one image, for which
    altered copies stand, or the weights were tuned on the images. And the weight of each member, none without a pool; seconds
    of each step; the relative error of truncation, if any; the rate that fine-tuning chose, if it was asked for: at 0 the blend
    was left as it is.
    """

    adapter: Adapter
    classifier: TaskClassifier
    held_out: tuple[AccuracyResult, ...]
    flattered: str
    weights: dict[str, float]
    seconds: dict[str, float]
    error: float | None
    rate: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FitJob:
    """A support, images (n, 3, H, W) in [0, 1] with labels that count through `classes`, and the pool to blend for it.

    `out` is the adapter's folder, which another run is waited for with `wait`, and `data` what its card tells of the
    support; nothing is written without a folder.
    """

    models: PoolModels
    blending: Blending
    x: Images
    y: Labels
    classes: tuple[str, ...]
    rank: int | None = None
    fine_tune: bool = False
    out: Path | None = None
    wait: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)


def resolve(
    config: FewShotFitConfig,
    *,
    base: Base | None = None,
    pool: AdapterPool | None = None,
    source: Source | None = None,
) -> FitJob:
    """Opens the pool, its base and the support; nothing is written.

    `base`, `pool` and `source` in memory take the place of what `config` names. Raises LoradarError.
    """
    if config.fine_tune and config.rank is not None:
        raise BadConfigError("fine_tune moves every weight, and rank asks for a low-rank blend; give one of the two")
    if pool is None and config.pool is not None:
        pool = open_pool(config.pool)
    spec = config.base or ""
    if not spec and base is None:
        if config.pool is None:
            raise BadConfigError("there is neither a base nor a pool; give --base, or the --pool that was tuned on it")
        spec = base_of(config.pool)
    base = open_base(spec, config.device) if base is None else base
    find_head(base.model)  # an adapter holds one
    source = load_source(config.support, size=base.input_size[1:]) if source is None else source
    x, y = support_of(source, config.shot)
    if config.fine_tune and len(y) > MOST_TUNED:
        raise BadDataError(
            f"{config.support} has {len(y)} images; fine_tune takes all of them at once, {MOST_TUNED} at most: give --shot"
        )
    models = PoolModels.of(
        base.model, pool, precision=config.precision, n_augmentations=config.n_augmentations, seed=config.seed
    )
    return FitJob(
        models=models,
        blending=Blending.of(config, head_of_pool(pool)),
        x=x,
        y=y,
        classes=source.classes,
        rank=config.rank,
        fine_tune=config.fine_tune,
        out=config.out,
        wait=config.wait,
        data={"base": spec, "support": config.support, "shot": config.shot, "images": len(y)},
    )


def run(job: FitJob, *, progress: Progress | None = None) -> Fitted:
    """Blends the pool for the support, trims, makes the head, and writes the adapter, whose plugged base answers `classes`.

    With `fine_tune` the blend is then tuned on the images (AMT-FT), and the adapter holds every weight, unless no rate did
    better than none. Without a pool the base stays as it is. Raises LoradarError.
    """
    if job.out is None:
        return _fit(job, progress)
    check_place(job.out, ADAPTER_CONFIG, "an adapter")
    with lease(job.out, wait=job.wait, progress=progress, beside=True):
        return _fit(job, progress)


def _fit(job: FitJob, progress: Progress | None) -> Fitted:
    models, way = job.models, len(job.classes)
    x, y = (part.to(models.device) for part in in_order(job.x, job.y))
    task = Task.of_support(x, y, way)
    engine = TaskEngine(models=models, cache=FeatureCache(models=models, fetch=lambda i: x[i.to(x.device)]), task=task)
    steps = (3 if models.pool else 0) + 2 + job.fine_tune
    watch = Stopwatch(bar=(progress or NullProgress()).task("fit", steps, "steps"))
    weights: dict[str, float] = {}
    adapter, error, rate = init_adapter(models.base, target_modules=(), head=False), None, None
    if models.pool is not None:
        with watch("choice"):
            weights = engine.weights(job.blending)
    if is_blend := any(weight for name, weight in weights.items() if name != BASE):
        adapter = engine.merged(weights, job.blending.rank_keep_ratio, watch)
    elif models.pool is not None:
        watch.bar.advance(2)  # the base alone: nothing to blend, nothing to trim
    if job.rank is not None:
        adapter = truncated(adapter, job.rank)
        error = float(adapter.card.data["truncated"]["relative_error"])
    if job.fine_tune:
        with watch("fine-tune"):
            adapter, rate = _tuned(models, adapter, task)
    with watch("head"):
        model = engine.fixed(BASE, job.blending.head)
        if is_blend or rate:
            model = dataclasses.replace(model, name="fitted", features=models.with_adapter(adapter), is_fixed=False)
        adapter, head = _with_head(engine, model, adapter, job.classes, weights)
    with watch("held-out images"):
        own = _held_out("task", engine, model, job.blending)
        held_out = own + _held_out(BASE, engine, engine.fixed(BASE, job.blending.head), job.blending)
    flattered = "the weights were tuned on the images" if rate else ""
    if not can_be_left_out(task.support_labels, task.way):
        flattered = "a class has one image, and altered copies stand for it"
    found = {HELD_OUT: {"flattered": flattered, "rows": [dataclasses.asdict(row) for row in own]}}
    adapter = adapter.with_card(data={**adapter.card.data, **found, **job.data})
    if job.out is not None:
        adapter = adapter.with_card(name=job.out.name)
        save(adapter, job.out, models.base)
    classifier = TaskClassifier(model.features, head)
    return Fitted(
        adapter=adapter,
        classifier=classifier,
        held_out=held_out,
        flattered=flattered,
        weights=weights,
        seconds=watch.seconds,
        error=error,
        rate=rate,
    )


def _held_out(name: str, engine: TaskEngine, model: TaskModel, blending: Blending) -> tuple[AccuracyResult, ...]:
    found, row = (
        engine.evidence(model, blending.attack),
        partial(AccuracyResult.count, model=name, seed=engine.models.seed),
    )
    answers: tuple[tuple[str, Threat, torch.Tensor], ...] = (
        (NO_ATTACK, "clean", found.right),
        (blending.attack.spec, "adaptive", found.right_attacked),
    )
    return tuple(
        row(attack=attack, threat=threat, correct=int(right.sum()), total=len(right))
        for attack, threat, right in answers
    )


def _tuned(models: PoolModels, blend: Adapter, task: Task) -> tuple[Adapter, float]:
    """All weights of the blend, tuned on the support, and the rate that the support chose; the blend itself at rate 0."""
    merged = models.with_adapter(blend)
    tuned, rate = FineTuning()(
        lambda: copy.deepcopy(merged), task.support, task.support_labels, way=task.way, augment=varied, seed=models.seed
    )
    data = {**blend.card.data, "fine_tuned_at_rate": rate}
    adapter = full_adapter(models.base, weights=tuned, seed=models.seed) if rate else blend
    return adapter.with_card(data=data), rate


def _with_head(
    engine: TaskEngine, model: TaskModel, adapter: Adapter, classes: tuple[str, ...], weights: dict[str, float]
) -> tuple[Adapter, nn.Module]:
    """The adapter with the task's head as its own, if the base has one layer for it; and the head to answer with.

    The head is linear and without a bias, so it answers as its rule does for features of length 1; its scale is that of
    probabilities, as the held-out images have it.
    """
    rule = model.head
    if rule.last is not None:
        raise BadConfigError("an adapter's head reads all features of its base; expected a rule without `last`")
    weight = engine.linear_weight(model)
    data = {**adapter.card.data, FEW_SHOT: weights, HEAD: rule.kind}
    adapter = adapter.with_card(classes=classes, data=data)
    if name := _head_layer(engine.models):
        layer = unwrap(engine.models.base).get_submodule(name)
        modules_to_save = {
            **adapter.modules_to_save,
            f"{name}.weight": nn.Parameter(weight.reshape(-1, *layer.get_parameter("weight").shape[1:])),
        }
        if layer.bias is not None:
            modules_to_save[f"{name}.bias"] = nn.Parameter(weight.new_zeros(len(weight)))
        adapter = dataclasses.replace(adapter, modules_to_save=modules_to_save).with_card(head=name)
    return adapter, engine.head(model) if rule.transduction else linear(weight)


def _head_layer(models: PoolModels) -> str:
    """The layer of the base that a task's head replaces; "" where there is none, or several."""
    if models.from_output:
        return ""
    heads = find_heads(models.base)
    return heads[0] if len(heads) == 1 else ""


def open_task(folder: Path | str, *, key: str | Path | None = None) -> Adapter:
    """Loads the adapter of a fitted task, signed by the owner of `key` if given. Raises BadFileError for any other."""
    adapter = load(folder, key=key)
    if not adapter.card.classes or f"{adapter.card.head}.weight" not in adapter.modules_to_save:
        raise BadFileError(f"{folder} is no adapter of a few-shot task; expected one that `loradar few-shot fit` wrote")
    return adapter


def base_of_task(folder: Path | str, adapter: Adapter) -> str:
    """Returns the spec of the base that an adapter or a task was made for. Raises BadFileError where its card does not say."""
    if not (spec := str(adapter.card.data.get("base", ""))):
        raise BadFileError(f"{folder} does not say which base it is for; give it with --base")
    return spec


def head_of(adapter: Adapter) -> HeadKind:
    """Returns the kind of a task's head, as its card says."""
    return "ridge" if adapter.card.data.get(HEAD) == "ridge" else "centroid"


def task_classifier(base: nn.Module, adapter: Adapter, support: tuple[Images, Labels] | None = None) -> TaskClassifier:
    """Makes the classifier of a task's adapter, which must hold a head: images to logits over its classes.

    With the images that it was fitted on, and their labels, it is transductive: a batch is answered as a whole.
    """
    adapter, card = adapter.to(device_of(base)), adapter.card
    merge_weights(base, adapter)  # checks the base by its weights, which those of a part of it are not
    head = f"{card.head}."
    below = {name: value for name, value in adapter.modules_to_save.items() if not name.startswith(head)}
    changes = dataclasses.replace(adapter, modules_to_save=below)
    features = skip_padding(merge_weights(feature_extractor(base), changes, check=False)).eval()
    kind = head_of(adapter)
    if support is not None:
        x, y = in_order(*support)
        rule = HeadConfig(kind=kind, transduction=Transduction())
        return TaskClassifier.of(features, rule, x.to(device_of(base)), y.to(device_of(base)), len(card.classes))
    return TaskClassifier(features, linear(adapter.modules_to_save[f"{card.head}.weight"].detach().flatten(1)))


def support_of(source: Source, shot: int | None) -> tuple[Images, Labels]:
    """Returns the first `shot` images of each class, or all, and their labels. Raises BadDataError for too few."""
    images = source.train
    counts = torch.bincount(images.labels, minlength=len(source.classes))
    if len(counts) < 2:
        raise BadDataError(f"{source.name} has {len(counts)} class; a task needs 2 or more")
    wanted = shot or 1
    if int(counts.min()) < wanted:
        worst = int(counts.argmin())
        raise BadDataError(
            f"class {source.classes[worst]!r} has {int(counts[worst])} images, {wanted} shots asked for; bring more images "
            "of it, or ask for fewer"
        )
    chosen = first_of_each(images, shot)
    return chosen.fetch(torch.arange(len(chosen)))
