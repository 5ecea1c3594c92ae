"""One adapter, trained and selected: every epoch is kept on disk, the validation split chooses among them."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loradar.adapters import Adapter, find_targets, init_adapter, merge_weights, plug, save
from loradar.core.files import write_atomically
from loradar.core.names import CHECKPOINT
from loradar.core.types import Images
from loradar.data import Splits, augment
from loradar.evaluation import everything, run_attack
from loradar.evaluation.workbench import Workbench
from loradar.jobs.config import HardenConfig
from loradar.jobs.members import Member
from loradar.training import FitSettings, LossOf, fit, mixed_adversarial_loss
from loradar.training.curves import curves

ELSEWHERE = {"out", "cache", "device", "tensorboard", "attacks", "transfer_attacks", "adaptive_attacks", "adaptive"}
"""Settings that do not change what a training ends with."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What the validation split said after an epoch (right answers of `total`), and where that adapter lies."""

    epoch: int
    loss: float
    clean: int
    adversarial: int
    total: int
    folder: Path


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
        return max(self.epochs, key=lambda e: (e.clean + e.adversarial, -e.epoch))


def train_adapter(member: Member, bench: Workbench, splits: Splits, config: HardenConfig, folder: Path) -> Trained:
    """Trains `member`, or goes on where a killed run stopped; the adapter ends with the same bits either way."""
    adapter = _fresh(member, bench, splits, config)
    # a tensor among the state, so that the mean loss of an epoch survives a kill in the middle of it
    sums = torch.zeros(2, dtype=torch.float64)
    given = {f.name for f in dataclasses.fields(FitSettings)} & set(type(config).model_fields)
    settings = FitSettings(**{name: getattr(config, name) for name in given})
    judge = _judge(member, bench, splits, adapter, folder)
    steps = fit(
        _loss_of(member, bench, splits, config, adapter),
        parameters=adapter.parameters(),
        state={**adapter.state(), "epoch-loss": sums},
        count=len(splits.train),
        settings=settings,
        checkpoint=folder / CHECKPOINT,
        run=f"{member.name} {member.kind} {member.target} {member.attack.spec} {config.model_dump_json(exclude=ELSEWHERE)}",
    )
    per_epoch = max(1, len(splits.train) // settings.batch_size)
    task, shown = bench.progress.task(f"train {member.name}", per_epoch * settings.epochs * settings.batch_size), 0
    with curves(config.out / "tensorboard" / member.name if config.tensorboard else None) as draw:
        for step in steps:
            task.advance(step.index * settings.batch_size - shown, f"epoch {step.epoch + 1}, loss {step.loss:.3f}")
            shown = step.index * settings.batch_size
            sums += torch.tensor([step.loss, 1.0], dtype=torch.float64)
            draw(step.index, {"loss": step.loss, "learning rate": step.learning_rate})
            if step.ends_epoch:
                epoch = judge(step.epoch, float(sums[0] / sums[1]))
                draw(step.index, {"clean": epoch.clean / epoch.total, "attacked": epoch.adversarial / epoch.total})
                sums.zero_()
    task.advance(per_epoch * settings.epochs * settings.batch_size - shown)
    return Trained(member=member, in_memory=adapter, epochs=_read_epochs(folder, settings.epochs))


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
    return adapter.with_card(trained_against=member.attack.spec, attack_target=member.target, data=dict(splits.record))


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
        kept = bench.attacked(member.attack, base, *everything(splits.train), name=name)

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


def _judge(
    member: Member, bench: Workbench, splits: Splits, adapter: Adapter, folder: Path
) -> Callable[[int, float], Epoch]:
    """What measures the adapter of the moment on the validation split, and puts both on disk."""
    base, (x, y) = bench.base.model, everything(splits.validation)
    name = f"craft {member.against}, {len(y)} validation images"
    kept = bench.attacked(member.attack, base, x, y, name=name) if member.target == "base" else None

    def judge(number: int, loss: float) -> Epoch:
        model = bench.optimized(merge_weights(base, adapter), member.attack)
        x_adv = kept
        if x_adv is None:
            x_adv = run_attack(member.attack, model, x, y, batch_size=bench.batch_size)
        clean, adversarial = bench.right(model, x, y), bench.right(model, x_adv, y)
        place = folder / "epochs" / f"{number:03d}"
        epoch = Epoch(epoch=number, loss=loss, clean=clean, adversarial=adversarial, total=len(y), folder=place)
        save(adapter, place)
        write_atomically(place.with_suffix(".json"), json.dumps(dataclasses.asdict(epoch), default=str).encode())
        return epoch

    return judge


def _read_epochs(folder: Path, count: int) -> tuple[Epoch, ...]:
    places = [folder / "epochs" / f"{number:03d}" for number in range(count)]
    return tuple(Epoch(**json.loads(p.with_suffix(".json").read_text()) | {"folder": p}) for p in places)
