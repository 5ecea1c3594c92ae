"""Signs of masked gradients: a defence that only makes the attack fail, not the model robust.

Athalye et al., "Obfuscated Gradients Give a False Sense of Security", 2018, section 3.1, and Carlini et al., "On
Evaluating Adversarial Robustness", 2019, section 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from loradar.core.types import Attack, Images, Labels, NullProgress, Progress
from loradar.evaluation.intervals import sign_test
from loradar.evaluation.measure import AccuracyResult, correct, run_attack
from loradar.evaluation.names import kind, labels

LEVEL = 0.01
"""A difference between two attacks on the same images counts below this p (one-sided exact sign test)."""

_NO_PROGRESS = NullProgress()


@dataclass(frozen=True, kw_only=True)
class Check:
    """One sanity check of a model's figures: `detail` says in words what `numbers` hold (counts of images)."""

    model: str = ""
    name: str
    passed: bool
    detail: str
    numbers: Mapping[str, int]


def check_masking(
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    noise: Attack,
    short: Attack,
    long: Attack,
    unbounded: Attack,
    name: str = "",
    batch_size: int = 128,
    progress: Progress = _NO_PROGRESS,
) -> tuple[Check, ...]:
    """Three checks of `model`, each attack adaptive: computed on the model itself.

    `noise` is random within the ball, `short` and `long` are the same gradient attack with few and with many steps,
    `unbounded` may paint any image. More steps must not help the defender and noise must not beat the gradient, beyond
    what chance explains (`LEVEL`); the unbounded attack must leave nothing right.
    """

    def right(attack: Attack) -> Tensor:
        x_adv = run_attack(attack, model, x, y, batch_size=batch_size, progress=progress)
        return correct(model, x_adv, y, batch_size=batch_size)

    noisy, brief, thorough, free = right(noise), right(short), right(long), right(unbounded)
    n = len(y)
    counts = {key: int(value.sum()) for key, value in (("noise", noisy), ("short", brief), ("long", thorough))}
    left = int(free.sum())
    return (
        Check(
            model=name,
            name="more steps do not help the defender",
            passed=not _stronger(brief, thorough),
            detail=f"right of {n}: {counts['short']} after few steps, {counts['long']} after many",
            numbers={"short": counts["short"], "long": counts["long"], "total": n},
        ),
        Check(
            model=name,
            name="noise is weaker than the gradient",
            passed=not _stronger(noisy, thorough),
            detail=f"right of {n}: {counts['noise']} under noise, {counts['long']} under the gradient attack",
            numbers={"noise": counts["noise"], "long": counts["long"], "total": n},
        ),
        Check(
            model=name,
            name="an unbounded attack leaves nothing right",
            passed=left == 0,
            detail=f"right of {n}: {left} where the attack may paint any image",
            numbers={"unbounded": left, "total": n},
        ),
    )


def check_transfer(rows: Sequence[AccuracyResult]) -> tuple[Check, ...]:
    """For every model and attack measured both ways: the attack on the model itself must not be the weaker one.

    `rows` count each attack alone: a battery tries the transferred images too, and cannot be weaker. It fails where the two
    intervals are apart and the adaptive one is the higher: the gradients of the model mislead.
    """
    transfer = {(row.candidate, row.attack): row for row in rows if row.threat == "transfer"}
    names = labels(rows)
    checks = []
    for row in rows:
        other = transfer.get((row.candidate, row.attack))
        if row.threat != "adaptive" or other is None:
            continue
        checks.append(
            Check(
                model=names[row.candidate],
                name=f"{kind(row.attack)} is not weaker on the model itself than on the base",
                passed=row.low <= other.high,
                detail=f"right: {row.correct} of {row.total} adaptive, {other.correct} of {other.total} transfer",
                numbers={"adaptive": row.correct, "transfer": other.correct, "total": row.total},
            )
        )
    return tuple(checks)


def _stronger(suspect: Tensor, attack: Tensor) -> bool:
    """Whether `suspect` left clearly fewer images right than `attack` did, image by image."""
    more, fewer = int((attack & ~suspect).sum()), int((suspect & ~attack).sum())
    return sign_test(more, fewer) < LEVEL
