"""One adapter, trained and selected: every epoch is kept on disk, the validation split chooses among them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from loradar.adapters import Adapter, Norm, find_targets, full_adapter, init_adapter, merge_weights, plug, save
from loradar.attacks import selection_attack
from loradar.core.names import CHECKPOINT
from loradar.core.types import Images
from loradar.data import Splits, augment, fetch_all
from loradar.evaluation import run_attack
from loradar.evaluation.workbench import Workbench
from loradar.jobs.config import HardenConfig
from loradar.jobs.crafting import Crafting, answer_overfitting
from loradar.jobs.members import Kind, Member
from loradar.training import (
    ALONE,
    AWP,
    Epoch,
    FitSettings,
    LossOf,
    Training,
    Validation,
    WeightAverage,
    World,
    adversarial_loss,
    best_epoch,
    perturbed_loss,
    train,
)

ELSEWHERE = {
    "out",
    "cache",
    "device",
    "tensorboard",
    "attacks",
    "recipe",
    "transfer_attacks",
    "adaptive_attacks",
    "adaptive",
    "effort",
}
"""Settings that do not change what a training ends with."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that ended: the adapter as it was in memory then, and every epoch on disk."""

    member: Member
    in_memory: Adapter
    epochs: tuple[Epoch, ...]
    clean_weight: float = 0.5

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]

    @property
    def selected(self) -> Epoch:
        """The epoch with the most right answers on validation, clean ones by their weight; the earliest such."""
        return best_epoch(self.epochs, clean_weight=self.clean_weight)


def train_adapter(
    member: Member,
    bench: Workbench,
    splits: Splits,
    config: HardenConfig,
    folder: Path,
    world: World = ALONE,
    *,
    stop: Callable[[Epoch], bool] | None = None,
) -> Trained:
    """Trains `member`, or goes on where a killed run stopped; the adapter ends with the same bits either way.

    Every process of a `world` calls this and returns the same; the first one alone writes. `stop` is asked after every epoch
    whether to leave the rest of them out; for one process alone.
    """
    adapter = _fresh(member, bench, splits, config)
    state = adapter.state()
    average = WeightAverage(state, decay=config.average_decay) if config.average_decay else None
    craft = Crafting(attack=member.attack, steps=config.train_steps)
    with world.first_then_others():  # images that are crafted once are in the cache then
        # before the loss, so that the few validation images are attacked first
        measure = _measure(member, bench, splits, adapter)
        loss_of = _loss_of(member, bench, splits, config, adapter, craft, world)
    epochs = folder / "epochs"

    def on_epoch(epoch: Epoch) -> bool:
        answer_overfitting(craft, state, average, epochs, member.name, bench.progress, epoch)
        return stop is not None and stop(epoch)

    training = Training(
        name=f"train {member.name}",
        loss_of=loss_of,
        parameters=adapter.parameters(),
        state={**state, "escalations": craft.escalations},
        count=len(splits.train),
        settings=dataclasses.replace(fit_settings(config), learning_rate=member.learning_rate),
        checkpoint=folder / CHECKPOINT,
        run=f"{member.name} {member.kind} {member.target} {craft.attack_now.spec} {config.model_dump_json(exclude=ELSEWHERE)}",
        validation=Validation(folder=epochs, measure=measure, save=partial(save, adapter)),
        tensorboard=config.out / "tensorboard" / member.name if config.tensorboard else None,
        average=average,
        on_epoch=on_epoch,
        world=world,
        statistics=adapter.statistics(),
    )
    kept = train(training, bench.progress)
    if average is not None:
        average.apply()
    return Trained(member=member, in_memory=adapter, epochs=kept, clean_weight=config.clean_weight)


def fit_settings(config: HardenConfig) -> FitSettings:
    """Returns how to descend. Raises BadConfigError for a warm-up that does not fit."""
    given = {f.name for f in dataclasses.fields(FitSettings)} & set(type(config).model_fields)
    return FitSettings(**{name: getattr(config, name) for name in given})


def _fresh(member: Member, bench: Workbench, splits: Splits, config: HardenConfig) -> Adapter:
    base, low_rank = bench.base.model, member.kind in ("adapter", "zeros")
    if member.kind == "full":
        adapter = full_adapter(base, head=True, seed=config.seed, name=member.name)
    else:
        adapter = init_adapter(
            base,
            target_modules=find_targets(base, config.target_modules) if low_rank else (),
            rank=config.rank,
            max_bytes=config.max_bytes if low_rank else None,
            lora_alpha=config.lora_alpha,
            init="zeros" if member.kind == "zeros" else config.init,
            norm=_norm_of(member.kind, config.norm),
            seed=config.seed,
            name=member.name,
        )
    data = {**splits.record, "input_size": list(bench.base.input_size)}
    if spec := bench.base.description.get("spec"):  # none of a model in memory
        data["base"] = spec
    return adapter.with_card(trained_against=member.attack.spec, attack_target=member.target, data=data)


def _norm_of(kind: Kind, norm: Norm) -> Norm:
    """What an adapter or a baseline owns of the normalisation: fc+norm as much as the adapters, statistics at least."""
    match kind:
        case "fc-only":
            return "frozen"
        case "fc+norm" if norm == "frozen":
            return "statistics"
        case _:
            return norm


def _loss_of(
    member: Member,
    bench: Workbench,
    splits: Splits,
    config: HardenConfig,
    adapter: Adapter,
    craft: Crafting,
    world: World,
) -> LossOf:
    """The loss of a batch, against images crafted once on the base or crafted now on the adapted model.

    With `distill_weight`, also what the clean answers have moved from the base's.
    """
    base, device = bench.base.model, bench.device
    fast = bench.trainable(plug(base, adapter, merge=bench.merge).train())
    undefended = bench.optimized(base)
    kept: Images | None = None
    if member.target == "base":
        name = f"craft {member.against}, {len(splits.train)} training images"
        kept = bench.attacked(member.attack, base, *fetch_all(splits.train), name=name)
    else:
        adapted = bench.attack_copy(adapter, craft.attack_now)
    perturbation = AWP(gamma=config.weight_perturbation) if config.weight_perturbation else None

    def loss_of(indices: Tensor, seed: int) -> Tensor:
        whole, own = len(indices), world.slice_of(len(indices))
        indices = indices[own]
        x, y = (tensor.to(device) for tensor in splits.train.fetch(indices))
        shift = partial(augment, crop=config.crop, flip=config.flip, seed=seed, first=own.start, batch=whole)
        if kept is not None:
            x, x_adv = shift((x, kept[indices].to(x)))
        else:
            (x,) = shift((x,))
            x_adv = craft.attack_now.reseeded(seed)(adapted.refreshed(), x, y)
        with torch.no_grad():
            before = undefended(x) if config.distill_weight else None

        def loss() -> Tensor:
            return adversarial_loss(
                fast,
                x,
                x_adv,
                y,
                objective=config.objective,
                clean_weight=config.clean_weight,
                label_smoothing=config.label_smoothing,
                before=before,
                distill_weight=config.distill_weight,
            )

        # all that is trained: what is in no group would get no gradient
        average = partial(world.average, batch=whole)
        return perturbed_loss(loss, [adapter.parameters()], perturbation, average=average)

    return loss_of


def _measure(
    member: Member, bench: Workbench, splits: Splits, adapter: Adapter
) -> Callable[[], tuple[float, float | None, int]]:
    """What counts right answers of the adapter of the moment on the validation split, clean and attacked.

    Of an adapter that is attacked itself by a stronger attack than trains it: that one would not see how it overfits.
    """
    base, (x, y) = bench.base.model, fetch_all(splits.validation)
    name = f"craft {member.against}, {len(y)} validation images"
    kept = bench.attacked(member.attack, base, x, y, name=name) if member.target == "base" else None
    attack = selection_attack(member.attack)

    def measure() -> tuple[float, float | None, int]:
        model = bench.optimized(merge_weights(base, adapter), member.attack)
        x_adv = kept
        if x_adv is None:
            x_adv = run_attack(attack, model, x, y, batch_size=bench.batch_size)
        return bench.right(model, x, y), bench.right(model, x_adv, y), len(y)

    return measure
