"""How long a run will take, from a few timed images of its own base and attacks."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from loradar.core.timing import timed
from loradar.core.types import Attack, Images, Labels
from loradar.evaluation import Workbench
from loradar.evaluation.battery import BatteryMember, passes, probe_members
from loradar.evaluation.battery import members as battery_members
from loradar.evaluation.worst_case import PROBED
from loradar.jobs.config import HardenConfig
from loradar.jobs.crafting import Crafting
from loradar.jobs.members import Member
from loradar.training import FitSettings

ENOUGH_STEPS = 100
"""Steps that a training should have at least: in fewer, rates of 1e-3 to 1e-2 hardly move the factors from their start."""
LEAST_BATCH = 8
"""The smallest batch that is advised; normalisation that is trained needs several images."""
_IMAGES = 8
_STEP = 3.0
"""A training step on a clean and an attacked image, in forward and backward passes of one image."""


def seconds_of_harden(
    bench: Workbench,
    config: HardenConfig,
    members: Iterable[Member],
    attacks: tuple[Iterable[Attack], Iterable[Attack]],
    x: Images,
    y: Labels,
    *,
    train: int,
    reported: int,
) -> dict[str, float]:
    """Seconds of crafting, training and measuring, at most: nothing is there already, and no attack breaks an image.

    `attacks` are those of the transfer and of the adaptive rows. Every attack is timed on 8 images of `x` (batch, C, H, W).
    """
    x, y = x[:_IMAGES].to(bench.device), y[:_IMAGES].to(bench.device)
    model = bench.optimized(bench.base.model)
    known: dict[str, float] = {}

    def per_image(attack: Attack) -> float:
        if attack.spec not in known:
            target = bench.optimized(bench.base.model, attack)
            known[attack.spec] = timed(lambda: attack(target, x, y)) / len(x)
        return known[attack.spec]

    def one_pass() -> None:
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)

    step = timed(one_pass) / len(x)
    members = list(members)
    transfer, adaptive = (list(several) for several in attacks)
    found = {"crafting": 0.0, "training": 0.0, "measuring": 0.0}
    crafted: set[str] = set()
    for member in members:
        found["training"] += config.epochs * train * step * _STEP
        if member.target == "defended":
            found["crafting"] += (
                config.epochs * train * per_image(Crafting(attack=member.attack, steps=config.train_steps).attack_now)
            )
        elif member.attack.spec not in crafted:
            crafted.add(member.attack.spec)
            found["crafting"] += train * per_image(member.attack)
    found["measuring"] += reported * sum(map(per_image, transfer))
    if config.adaptive != "none" and adaptive:
        found["measuring"] += _adaptive(
            bench, config, members, [(a, per_image(a)) for a in adaptive], step, x, reported
        )
    return found


def _adaptive(
    bench: Workbench,
    config: HardenConfig,
    members: list[Member],
    attacks: Sequence[tuple[Attack, float]],
    step: float,
    x: Images,
    reported: int,
) -> float:
    """Seconds of the adaptive rows, from the seconds that each attack takes for an image, and those of one pass."""
    few = min(reported, config.max_adaptive_images or reported)
    channels, height, width = x.shape[1:]

    def cost(of: Callable[..., Sequence[BatteryMember]], attack: Attack) -> float:
        return step * passes(of(attack, config.effort, shape=(channels, height, width), classes=bench.base.num_classes))

    own, probes = (sum(cost(of, attack) for attack, _ in attacks) for of in (battery_members, probe_members))
    adapters = sum(member.kind == "adapter" for member in members)
    # the attack on the model itself and on every adapter or the base, then the battery
    figures = few * (sum(seconds for _, seconds in attacks) * (1 + adapters) + own)
    share = 1.0 if config.adaptive == "all" else 1 / len(attacks)
    return figures * (1 + share * len(members)) + min(few, PROBED) * probes * share * adapters


def in_words(seconds: dict[str, float]) -> str:
    """One line with the parts that matter.

    >>> in_words({"crafting": 300.0, "training": 3600.0, "measuring": 2.0})
    'about 1 h 5 min at most (crafting 5 min, training 1 h 0 min, measuring 2 s)'
    """
    parts = ", ".join(f"{name} {_duration(value)}" for name, value in seconds.items())
    return f"about {_duration(sum(seconds.values()))} at most ({parts})"


def steps_in_words(count: int, settings: FitSettings) -> tuple[str, str]:
    """Returns how many steps a training on `count` images takes, and a warning where these are too few, "" else.

    >>> steps_in_words(240, FitSettings(epochs=8, batch_size=128))[0]
    '8 steps (240 images, 128 a step, 8 epochs)'
    """
    each = settings.steps_per_epoch(count)
    steps, batch = each * settings.epochs, min(settings.batch_size, count)
    epochs = "1 epoch" if settings.epochs == 1 else f"{settings.epochs} epochs"
    said = f"{steps} steps ({count} images, {batch} a step, {epochs})"
    if steps >= ENOUGH_STEPS:
        return said, ""
    mend = f"--epochs {math.ceil(ENOUGH_STEPS / each)}"
    smaller = (2**power for power in range(batch.bit_length(), -1, -1))
    # whole batches alone make steps
    enough = next(one for one in smaller if one == 1 or count // one * settings.epochs >= ENOUGH_STEPS)
    if enough >= LEAST_BATCH:
        mend = f"--batch-size {enough}, or {mend}"
    return said, f"warning: little is learned in {steps} steps; expected {ENOUGH_STEPS} or more: {mend}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
