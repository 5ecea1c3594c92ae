"""One training of a meta-tuning: every epoch is kept on disk, the validation tasks choose among them."""

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from loradar.adapters import (
    Adapter,
    feature_extractor,
    full_adapter,
    load,
    merge_weights,
    on_residual,
    plug,
    residual,
    save,
)
from loradar.attacks import selection_attack
from loradar.core.leases import lease
from loradar.core.names import ADAPTER_CONFIG, CHECKPOINT
from loradar.core.randomness import generator, mix
from loradar.core.timing import duration, timed
from loradar.core.types import Attack, Images, Labels, Progress
from loradar.evaluation import device_of, predict
from loradar.fewshot.chunks import in_chunks
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.episode import Sampler
from loradar.fewshot.feature_tuning import feature_loss
from loradar.fewshot.heads import HeadConfig, TaskClassifier
from loradar.fewshot.pools import BASELINES, POOL
from loradar.fewshot.tasks import Domain, Task, share
from loradar.models import Base, foldable_conv_bn, optimize_for_inference, skip_padding
from loradar.training import (
    AWP,
    FitSettings,
    LossOf,
    RawPerturbation,
    Training,
    Validation,
    WeightAverage,
    WeightPerturbation,
    best_epoch,
    perturbed_loss,
    trades_loss,
    train,
)

Kind = Literal["member", "clean", "random-budget", "random-budget-unperturbed"]
FREE = ("member", "precision")
"""Settings that may differ between the runs that fill one folder: who trains what, and how fast attacks are crafted."""


@dataclass(frozen=True, kw_only=True)
class MetaMember:
    """One training, in the folder `name`, under a head made of each task's support.

    Each task meets one of `attacks`; none for clean meta-tuning.
    """

    name: str
    kind: Kind
    attacks: tuple[Attack, ...]
    head: HeadConfig

    @property
    def is_pooled(self) -> bool:
        return self.kind == "member"


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaTuneJob:
    """A base, the tasks to tune and to validate on, and every training that all of a run's settings give.

    Members start from `start`, and descend by `settings`, in steps of one task.
    """

    config: MetaTuneConfig
    base: Base
    tuning: Domain
    validation: Domain
    sampler: Sampler
    members: tuple[MetaMember, ...]
    settings: FitSettings
    start: Adapter

    @cached_property
    def features(self) -> nn.Module:
        """The base, up to what its head sees."""
        return feature_extractor(self.base.model)

    @property
    def device(self) -> torch.device:
        return device_of(self.features)


def train_member(member: MetaMember, job: MetaTuneJob, progress: Progress) -> Adapter:
    """Trains `member`, or continues where a killed run stopped; its folder then holds the epoch selected."""
    folder = job.config.out / "work" / member.name
    with lease(folder, wait=job.config.wait, progress=progress):
        return _train(member, job, folder, progress)


def _train(member: MetaMember, job: MetaTuneJob, folder: Path, progress: Progress) -> Adapter:
    config = job.config
    place = config.out / (POOL if member.is_pooled else BASELINES) / member.name
    if (place / ADAPTER_CONFIG).exists():
        return load(place)
    is_clean = member.kind == "clean"
    adapter = _begun(member, job).with_card(
        name=member.name, trained_against=_against(member), attack_target="defended" if member.attacks else ""
    )
    if not (folder / CHECKPOINT).exists():
        progress.message(_expected(member, job, adapter))
    settings, state = job.settings, adapter.state()
    if is_clean:
        rate = config.clean_learning_rate or settings.learning_rate
        settings = dataclasses.replace(settings, learning_rate=rate, optimizer="sgd")
    average = WeightAverage(state, decay=config.average_decay) if config.average_decay and not is_clean else None
    training = Training(
        name=f"meta-tune {member.name}",
        loss_of=_loss_of(member, job, adapter),
        parameters=adapter.parameters(),
        state=state,
        count=config.episodes,
        settings=settings,
        checkpoint=folder / CHECKPOINT,
        run=f"{member.name} {member.head!r} {_against(member)} {config.model_dump_json(exclude={'out', 'device', *FREE})}",
        unit=_unit(member, config),
        average=average,
        validation=Validation(
            folder=folder / "epochs", measure=partial(_measure, member, job, adapter), save=partial(save, adapter)
        ),
    )
    best = best_epoch(train(training, progress))
    measured = {"clean": best.clean, "attacked": best.adversarial, "episodes": config.validation_episodes}
    data = {"source": config.data, "setting": config.setting, "head": member.head.kind, "validation": measured}
    selected = load(best.folder).with_card(selected_epoch=best.epoch, data=data)
    save(selected, place, job.base.model)
    return selected


def _begun(member: MetaMember, job: MetaTuneJob) -> Adapter:
    """What its training starts from; PMF lets every weight move."""
    if member.kind == "clean":
        return full_adapter(job.base.model, seed=job.config.seed)
    return job.start.to(job.device)


def _against(member: MetaMember) -> str:
    return " or ".join(attack.spec for attack in member.attacks)


def _perturbation(member: MetaMember, config: MetaTuneConfig) -> WeightPerturbation | None:
    if member.kind in ("clean", "random-budget-unperturbed") or config.perturbation == "none":
        return None
    if config.perturbation == "raw":
        return RawPerturbation(step=config.perturbation_step)
    return AWP(gamma=config.gamma)


def _loss_of(member: MetaMember, job: MetaTuneJob, adapter: Adapter) -> LossOf:
    """The loss of one task: the query attacked at the weights of the moment, then CE + weight * KL at the worst ones."""
    config = job.config
    if _by_features(member, config):
        return feature_loss(
            job.features,
            adapter,
            job.tuning,
            partial(_drawn, member),
            batch_size=config.batch_size,
            precision=config.precision,
            merge=foldable_conv_bn(job.features),
        )
    floor, active = residual(job.features, adapter), on_residual(adapter)
    model = skip_padding(plug(floor, active, check=False).train())
    merge = foldable_conv_bn(job.features)
    perturbation = _perturbation(member, config)
    groups = [[d.a for d in active.deltas.values()], [d.b for d in active.deltas.values()]]

    def loss_of(_indices: Tensor, seed: int) -> Tensor:
        task = job.tuning.task(job.sampler, seed, job.device)
        if not member.attacks:
            return _clean_loss(model, task, member.head)
        still = optimize_for_inference(merge_weights(floor, active, check=False), config.precision, merge=merge)
        x_adv = _drawn(member, seed)(_classifier(still, task, member.head), task.query, task.query_labels)
        return perturbed_loss(lambda: _robust_loss(model, task, x_adv, member.head, config), groups, perturbation)

    return loss_of


def _drawn(member: MetaMember, seed: int) -> Attack:
    """The attack of one task: the only one, or one at random where there are several."""
    chosen = int(torch.randint(len(member.attacks), (1,), generator=generator(seed)))
    return member.attacks[chosen].reseeded(seed)


def _robust_loss(model: nn.Module, task: Task, x_adv: Images, make_head: HeadConfig, config: MetaTuneConfig) -> Tensor:
    # features and head anew at every call: the weights may have been moved in between
    features = in_chunks(model, torch.cat([task.support, task.query, x_adv]))
    support, query, attacked = torch.split(features, [len(task.support), len(task.query), len(x_adv)])
    head = make_head(support, task.support_labels, task.way)
    return trades_loss(head(query), head(attacked), task.query_labels, weight=config.adversarial_weight, kl=config.kl)


def _clean_loss(model: nn.Module, task: Task, make_head: HeadConfig) -> Tensor:
    features = in_chunks(model, torch.cat([task.support, task.query]))
    support, query = torch.split(features, [len(task.support), len(task.query)])
    return nn.functional.cross_entropy(make_head(support, task.support_labels, task.way)(query), task.query_labels)


def _measure(member: MetaMember, job: MetaTuneJob, adapter: Adapter) -> tuple[float, float | None, int]:
    """The mean shares of right answers of the adapter of the moment on the validation tasks, clean and attacked."""
    merged = merge_weights(job.features, adapter, check=False)
    features = optimize_for_inference(merged, job.config.precision, merge=foldable_conv_bn(job.features))
    found = [_shares(member, job, features, index) for index in range(job.config.validation_episodes)]
    clean, attacked = ([share for share in shares if share is not None] for shares in zip(*found, strict=True))
    return sum(clean) / len(clean), sum(attacked) / len(attacked) if attacked else None, 1


def _shares(member: MetaMember, job: MetaTuneJob, features: nn.Module, index: int) -> tuple[float, float | None]:
    """The shares of right answers on one validation task, clean and under a stronger attack than trains."""
    task = job.validation.task(job.sampler, index, job.device)
    model = _classifier(features, task, member.head)
    clean = _share_right(model, task.query, task.query_labels)
    if not member.attacks:
        return clean, None
    seed = mix(job.config.seed, index)
    attack = selection_attack(_drawn(member, seed)).reseeded(seed)
    x_adv = attack(model, task.query, task.query_labels)
    return clean, _share_right(model, x_adv, task.query_labels)


def seconds_of(member: MetaMember, job: MetaTuneJob, adapter: Adapter | None = None) -> tuple[float, float]:
    """Seconds of a step and of a validation task of a training of `member`: of one each, of a copy of its adapter."""
    config, twin = job.config, copy.deepcopy(_begun(member, job) if adapter is None else adapter)
    loss_of = _loss_of(member, job, twin)
    features = optimize_for_inference(job.features, config.precision, merge=foldable_conv_bn(job.features))

    def step() -> None:
        gradients = torch.autograd.grad(loss_of(torch.arange(1), config.seed), twin.parameters(), allow_unused=True)
        # a GPU is waited for
        [float(gradient.sum()) for gradient in gradients if gradient is not None]

    return timed(step), timed(lambda: _shares(member, job, features, 0))


def counts_of(config: MetaTuneConfig) -> tuple[int, int]:
    """Steps and validation tasks of a training."""
    return config.epochs * config.episodes, config.epochs * config.validation_episodes


def _expected(member: MetaMember, job: MetaTuneJob, adapter: Adapter) -> str:
    """How long a training of `member` will take."""
    counts, seconds = counts_of(job.config), seconds_of(member, job, adapter)
    total = sum(count * each for count, each in zip(counts, seconds, strict=True))
    return (
        f"{member.name}: about {duration(max(1, total))} ({counts[0]:,} {_unit(member, job.config)} of {seconds[0]:.2g} s, "
        f"{counts[1]:,} validation tasks of {seconds[1]:.2g} s)"
    )


def _unit(member: MetaMember, config: MetaTuneConfig) -> str:
    """What a step of its training takes."""
    return "batches" if _by_features(member, config) else "tasks"


def _by_features(member: MetaMember, config: MetaTuneConfig) -> bool:
    """Whether it learns to keep the base's features; clean meta-tuning always learns from tasks."""
    return bool(member.attacks) and config.objective == "features"


def _classifier(features: nn.Module, task: Task, head: HeadConfig) -> TaskClassifier:
    return TaskClassifier.of(features, head, task.support, task.support_labels, task.way)


def _share_right(model: nn.Module, x: Images, y: Labels) -> float:
    return share(predict(model, x, batch_size=len(x)), y)
