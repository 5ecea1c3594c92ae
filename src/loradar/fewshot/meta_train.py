"""One training of a meta-tuning: every epoch is kept on disk, the validation tasks choose among them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, full_adapter, load, merge_weights, on_residual, plug, residual, save
from loradar.core.files import write_atomically
from loradar.core.names import ADAPTER_CONFIG, CHECKPOINT
from loradar.core.randomness import generator, mix
from loradar.core.types import Attack, Images, Progress
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.episode import Sampler
from loradar.fewshot.heads import HeadConfig, TaskClassifier
from loradar.fewshot.meta_members import MetaMember
from loradar.fewshot.pools import BASELINES, POOL
from loradar.fewshot.tasks import Domain, Task
from loradar.models import Base, foldable_conv_bn, optimize_for_inference, skip_padding
from loradar.training import (
    AWP,
    FitSettings,
    LossOf,
    RawPerturbation,
    WeightPerturbation,
    fit,
    perturbed_loss,
    trades_loss,
)

FREE = ("member", "precision")
"""Settings that may differ between the runs that fill one folder: who trains what, and how fast attacks are crafted."""


@dataclass(frozen=True, kw_only=True)
class MetaEpoch:
    """What the validation tasks said after an epoch (mean shares of right answers), and where that adapter lies."""

    epoch: int
    loss: float
    clean: float
    attacked: float | None
    folder: Path

    @property
    def score(self) -> float:
        return self.clean + (self.attacked or 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaBench:
    """What every training of a run shares."""

    config: MetaTuneConfig
    base: Base
    tuning: Domain
    validation: Domain
    sampler: Sampler
    features: nn.Module
    settings: FitSettings
    progress: Progress

    @property
    def device(self) -> torch.device:
        return next(self.features.parameters()).device


def train_member(member: MetaMember, bench: MetaBench, start: Adapter) -> None:
    """Trains `member` from `start`, or goes on where a killed run stopped; the folder then holds the epoch selected."""
    config, folder = bench.config, bench.config.out / "work" / member.name
    place = config.out / (POOL if member.is_pooled else BASELINES) / member.name
    if (place / ADAPTER_CONFIG).exists():
        return
    is_clean = member.kind == "clean"  # PMF: every weight is free to move
    begun = full_adapter(bench.base.model, seed=config.seed) if is_clean else start.to(bench.device)
    adapter = begun.with_card(
        name=member.name, trained_against=_against(member), attack_target="defended" if member.attacks else ""
    )
    settings = bench.settings
    if is_clean and config.clean_learning_rate is not None:
        settings = dataclasses.replace(settings, learning_rate=config.clean_learning_rate)
    sums = torch.zeros(2, dtype=torch.float64)
    steps = fit(
        _loss_of(member, bench, adapter),
        parameters=adapter.parameters(),
        state={**adapter.state(), "epoch-loss": sums},
        count=config.episodes,
        settings=settings,
        checkpoint=folder / CHECKPOINT,
        run=f"{member.name} {member.head!r} {_against(member)} {config.model_dump_json(exclude={'out', 'device', *FREE})}",
    )
    task, shown = bench.progress.task(f"meta-tune {member.name}", config.epochs * config.episodes, "tasks"), 0
    for step in steps:
        task.advance(step.index - shown, f"epoch {step.epoch + 1}, loss {step.loss:.3f}")
        shown = step.index
        sums += torch.tensor([step.loss, 1.0], dtype=torch.float64)
        if step.ends_epoch:
            _judge(
                member,
                bench,
                adapter,
                MetaEpoch(
                    epoch=step.epoch,
                    loss=float(sums[0] / sums[1]),
                    clean=0.0,
                    attacked=None,
                    folder=folder / "epochs" / f"{step.epoch:03d}",
                ),
            )
            sums.zero_()
    task.advance(config.epochs * config.episodes - shown)
    best = max(epochs_of(folder), key=lambda e: (e.score, -e.epoch))
    measured = {"validation": {"clean": best.clean, "attacked": best.attacked, "episodes": config.validation_episodes}}
    data = {"source": config.data, "setting": config.setting, "head": member.head.kind, **measured}
    save(load(best.folder).with_card(selected_epoch=best.epoch, data=data), place, bench.base.model)


def epochs_of(folder: Path) -> list[MetaEpoch]:
    """Every epoch that a training has kept below `folder`, in order."""
    found = []
    for path in sorted((folder / "epochs").glob("*.json")):
        found.append(MetaEpoch(**json.loads(path.read_text()) | {"folder": path.with_suffix("")}))
    return found


def _against(member: MetaMember) -> str:
    return " or ".join(attack.spec for attack in member.attacks)


def _perturbation(member: MetaMember, config: MetaTuneConfig) -> WeightPerturbation | None:
    if member.kind in ("clean", "random-budget-unperturbed") or config.perturbation == "none":
        return None
    if config.perturbation == "raw":
        return RawPerturbation(step=config.perturbation_step)
    return AWP(gamma=config.gamma)


def _loss_of(member: MetaMember, bench: MetaBench, adapter: Adapter) -> LossOf:
    """The loss of one task: the query attacked at the weights of the moment, then CE + weight * KL at the worst ones."""
    config = bench.config
    floor, worn = residual(bench.features, adapter), on_residual(adapter)
    model = skip_padding(plug(floor, worn, check=False).train())
    merge = foldable_conv_bn(bench.features)
    perturbation = _perturbation(member, config)
    groups = [[d.a for d in worn.deltas.values()], [d.b for d in worn.deltas.values()]]

    def loss_of(_indices: Tensor, seed: int) -> Tensor:
        task = bench.tuning.task(bench.sampler, seed, bench.device)
        if not member.attacks:
            return _clean_loss(model, task, member.head)
        still = optimize_for_inference(merge_weights(floor, worn, check=False), config.precision, merge=merge)
        x_adv = _drawn(member, seed)(task_classifier(still, task, member.head), task.query, task.query_labels)
        return perturbed_loss(lambda: _robust_loss(model, task, x_adv, member.head, config), groups, perturbation)

    return loss_of


def _drawn(member: MetaMember, seed: int) -> Attack:
    """The attack of one task: the only one, or one at random where there are several."""
    chosen = int(torch.randint(len(member.attacks), (1,), generator=generator(seed)))
    return member.attacks[chosen].reseeded(seed)


def task_classifier(features: nn.Module, task: Task, rule: HeadConfig) -> TaskClassifier:
    """`features`, whose weights stay as they are, under the head of the clean support."""
    with torch.no_grad():
        head = rule(features(task.support).float(), task.support_labels, task.way)
    return TaskClassifier(features, head)


def _robust_loss(model: nn.Module, task: Task, x_adv: Images, rule: HeadConfig, config: MetaTuneConfig) -> Tensor:
    # one pass, and the head anew at every call: the weights may have been moved in between
    features = model(torch.cat([task.support, task.query, x_adv]))
    support, query, attacked = features.split([len(task.support), len(task.query), len(x_adv)])
    head = rule(support, task.support_labels, task.way)
    return trades_loss(head(query), head(attacked), task.query_labels, weight=config.adversarial_weight, kl=config.kl)


def _clean_loss(model: nn.Module, task: Task, rule: HeadConfig) -> Tensor:
    support, query = model(torch.cat([task.support, task.query])).split([len(task.support), len(task.query)])
    return nn.functional.cross_entropy(rule(support, task.support_labels, task.way)(query), task.query_labels)


def _judge(member: MetaMember, bench: MetaBench, adapter: Adapter, blank: MetaEpoch) -> None:
    """Measures the adapter of the moment on the validation tasks, and puts both on disk."""
    merge = foldable_conv_bn(bench.features)
    features = optimize_for_inference(
        merge_weights(bench.features, adapter, check=False), bench.config.precision, merge=merge
    )
    clean, attacked = [], []
    for index in range(bench.config.validation_episodes):
        task = bench.validation.task(bench.sampler, index, bench.device)
        model = task_classifier(features, task, member.head)
        clean.append(share_right(model, task.query, task.query_labels))
        if member.attacks:
            x_adv = _drawn(member, mix(bench.config.seed, index))(model, task.query, task.query_labels)
            attacked.append(share_right(model, x_adv, task.query_labels))
    epoch = dataclasses.replace(
        blank, clean=sum(clean) / len(clean), attacked=sum(attacked) / len(attacked) if attacked else None
    )
    save(adapter, epoch.folder)
    record = dataclasses.asdict(epoch) | {"folder": ""}
    write_atomically(epoch.folder.with_suffix(".json"), json.dumps(record).encode())


@torch.no_grad()
def share_right(model: nn.Module, x: Images, y: Tensor) -> float:
    """The share of right answers."""
    return float((model(x).argmax(1) == y).float().mean())
