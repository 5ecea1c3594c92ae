"""Chooses what answers: a fusion rule, or the best adapter alone; by what each keeps of an adaptive union of attacks."""

import dataclasses
from collections.abc import Mapping

import torch

from loradar.guard.fusion import RULES
from loradar.guard.guard import Guard
from loradar.guard.measuring import GuardCandidate, GuardMeasuring, list_candidates
from loradar.guard.settings import BASE
from loradar.report.guards import Choice, Kept

IMAGES = 64
"""Held-out calibration images that every way of answering is attacked on."""


def choose(measuring: GuardMeasuring, guard: Guard) -> Choice:
    """Attacks every adapter alone and the guard under every rule, adaptively, and keeps what holds best.

    A guard under a rule is attacked as `guard audit` does it, also towards looking clean. The adapter wins where it keeps
    more images than every rule; otherwise the rule that keeps most does, the guard's own first among equals.
    """
    candidates = list_candidates(measuring.bench, guard, {}, RULES)
    adapters = [one for one in candidates if not one.is_guard and one.name != BASE]
    rules = [one for one in candidates if one.name.removeprefix("guard:") in RULES]
    kept = {one.name: _kept(measuring, one, least=0) for one in adapters}
    best = max(adapters, key=lambda one: kept[one.name].right).name
    if kept[best].right:
        kept |= {one.name: _kept(measuring, one, least=kept[best].right) for one in rules}
    winner = max((one.name for one in rules), key=lambda name: kept[name].right if name in kept else 0)
    alone = all(kept[one.name].right < kept[best].right for one in rules if one.name in kept) and kept[best].right > 0
    return Choice(
        answered_by=best if alone else "",
        fusion=guard.settings.fusion if alone else winner.removeprefix("guard:"),
        kept=kept,
        reason=_reason(kept, best, winner, alone=alone),
    )


def _reason(kept: Mapping[str, Kept], best: str, winner: str, *, alone: bool) -> str:
    start = "On held-out calibration images, clean and under every attack on itself,"
    if winner not in kept:
        return f"{start} no adapter alone keeps any of {kept[best].total} images, so the fusion rule was left as it is."
    rule = winner.removeprefix("guard:")
    figures = f"adapter {best!r} alone keeps {kept[best]}, the best fusion rule ({rule}) {kept[winner]}"
    if alone:
        return f"{start} {figures}: the adapter answers, and the identifier is a monitor."
    return f"{start} {figures}: the rule answers."


def _kept(measuring: GuardMeasuring, one: GuardCandidate, *, least: int) -> Kept:
    """Attacks the images that still resist by one attack after the other, until fewer than `least` of them are left."""
    right = one.right(measuring.x, measuring.y, measuring.bench.batch_size)
    for attack in measuring.adaptive(one):
        rows = torch.nonzero(right).squeeze(1)
        if not len(rows) or len(rows) < least:
            return Kept(right=len(rows), total=len(right), bound=bool(len(rows)))
        part = dataclasses.replace(measuring, x=measuring.x[rows], y=measuring.y[rows])
        x_adv, y = part.crafted(one, attack)
        right = right.index_put((rows,), one.right(x_adv, y, measuring.bench.batch_size))
    return Kept(right=int(right.sum()), total=len(right))
