"""One adapter, trained and selected: every epoch is kept on disk, the validation split chooses among them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from loradar.adapters import Adapter, find_targets, init_adapter, merge_weights, plug, save
from loradar.core.names import CHECKPOINT
from loradar.core.types import Images
from loradar.data import Splits, augment, fetch_all
from loradar.evaluation import run_attack
from loradar.evaluation.workbench import Workbench
from loradar.jobs.config import HardenConfig
from loradar.jobs.members import Member
from loradar.training import (
    Epoch,
    FitSettings,
    LossOf,
    Training,
    Validation,
    best_epoch,
    mixed_adversarial_loss,
    train,
)

ELSEWHERE = {
    "out",
    "cache",
    "device",
    "tensorboard",
    "attacks",
    "transfer_attacks",
    "adaptive_attacks",
    "adaptive",
    "effort",
}
"""Settings that do not change what a training ends with."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training: the adapter as it was in memory at the end, and every epoch on disk."""

    member: Member
    in_memory: Adapter
    epochs: tuple[Epoch, ...]

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]

    @property
    def selected(self) -> Epoch:
        """The epoch with the most right answers on validation, clean and attacked counted alike; the earliest such."""
        return best_epoch(self.epochs)


def train_adapter(member: Member, bench: Workbench, splits: Splits, config: HardenConfig, folder: Path) -> Trained:
    """Trains `member`, or goes on where a killed run stopped; the adapter ends with the same bits either way."""
    adapter = _fresh(member, bench, splits, config)
    given = {f.name for f in dataclasses.fields(FitSettings)} & set(type(config).model_fields)
    # before the loss, so that the few validation images are attacked first
    measure = _measure(member, bench, splits, adapter)
    training = Training(
        name=f"train {member.name}",
        loss_of=_loss_of(member, bench, splits, config, adapter),
        parameters=adapter.parameters(),
        state=adapter.state(),
        count=len(splits.train),
        settings=FitSettings(**{name: getattr(config, name) for name in given}),
        checkpoint=folder / CHECKPOINT,
        run=f"{member.name} {member.kind} {member.target} {member.attack.spec} {config.model_dump_json(exclude=ELSEWHERE)}",
        validation=Validation(folder=folder / "epochs", measure=measure, save=partial(save, adapter)),
        tensorboard=config.out / "tensorboard" / member.name if config.tensorboard else None,
    )
    return Trained(member=member, in_memory=adapter, epochs=train(training, bench.progress))


def _fresh(member: Member, bench: Workbench, splits: Splits, config: HardenConfig) -> Adapter:
    low_rank = member.kind in ("adapter", "zeros")
    adapter = init_adapter(
        bench.base.model,
        target_modules=find_targets(bench.base.model, config.target_modules) if low_rank else (),
        rank=config.rank,
        lora_alpha=config.lora_alpha,
        init="zeros" if member.kind == "zeros" else config.init,
        norm="owned" if member.kind == "fc+norm" else config.norm,
        seed=config.seed,
        name=member.name,
    )
    data = {**splits.record, "input_size": list(bench.base.input_size)}
    return adapter.with_card(trained_against=member.attack.spec, attack_target=member.target, data=data)


def _loss_of(member: Member, bench: Workbench, splits: Splits, config: HardenConfig, adapter: Adapter) -> LossOf:
    """The 1:1 loss of a batch, against images crafted once on the base or crafted now on the defended model.

    With `distill_weight`, also what the clean answers have moved from the base's.
    """
    base, device = bench.base.model, bench.device
    fast = bench.trainable(plug(base, adapter, merge=bench.merge).train())
    undefended = bench.optimized(base)
    kept: Images | None = None
    if member.target == "base":
        name = f"craft {member.against}, {len(splits.train)} training images"
        kept = bench.attacked(member.attack, base, *fetch_all(splits.train), name=name)

    def loss_of(indices: Tensor, seed: int) -> Tensor:
        x, y = (tensor.to(device) for tensor in splits.train.fetch(indices))
        if kept is not None:
            x, x_adv = augment((x, kept[indices].to(x)), crop=config.crop, flip=config.flip, seed=seed)
        else:
            (x,) = augment((x,), crop=config.crop, flip=config.flip, seed=seed)
            # merged weights are cheaper to attack than two branches, and give the same gradient; plug has checked the base
            folded = bench.optimized(merge_weights(base, adapter, check=False), member.attack)
            x_adv = member.attack.reseeded(seed)(folded, x, y)
        with torch.no_grad():
            before = undefended(x) if config.distill_weight else None
        return mixed_adversarial_loss(fast, x, x_adv, y, before=before, distill_weight=config.distill_weight)

    return loss_of


def _measure(
    member: Member, bench: Workbench, splits: Splits, adapter: Adapter
) -> Callable[[], tuple[float, float | None, int]]:
    """What counts right answers of the adapter of the moment on the validation split, clean and attacked."""
    base, (x, y) = bench.base.model, fetch_all(splits.validation)
    name = f"craft {member.against}, {len(y)} validation images"
    kept = bench.attacked(member.attack, base, x, y, name=name) if member.target == "base" else None

    def measure() -> tuple[float, float | None, int]:
        model = bench.optimized(merge_weights(base, adapter), member.attack)
        x_adv = kept
        if x_adv is None:
            x_adv = run_attack(member.attack, model, x, y, batch_size=bench.batch_size)
        return bench.right(model, x, y), bench.right(model, x_adv, y), len(y)

    return measure
