"""Label leaking: does the model read the true label out of the perturbation that was computed from it?

A perturbation computed from the true label against a fixed network can encode that label; a model trained on such
images then looks robust because it is told the answer. Kurakin et al., "Adversarial Machine Learning at Scale", 2017,
section 4.4, name the effect; the probe by a wrong label is ours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from loradar.core.checks import check_labels
from loradar.core.errors import BadConfigError
from loradar.core.modules import evaluating
from loradar.core.randomness import generator
from loradar.core.types import Attack, Images, Labels, NullProgress, Progress
from loradar.evaluation.intervals import sign_test, wilson
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult, device_of, predict, run_attack

LEVEL = 0.0025
"""A sign counts below this p: 1 % for the four together (Bonferroni)."""

RULE = (
    "The same images are attacked three times on the unmodified base: for their true label, for the label the base "
    "predicts, and for a wrong label drawn at random. An attack that knows the true label should hurt at least as "
    "much as the others. The model leaks when, on the same images, it is right more often under the true label than on "
    "clean images, than under the predicted label, or than under the wrong label; or when it answers the wrong label "
    "more often where the attack was given it than where the attack was given the true one. Each is a one-sided "
    f"exact sign test over the images that differ; a sign counts below p = {LEVEL} (1 % for the four together)."
)

_NO_PROGRESS = NullProgress()


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One comparison: of the images on which two measurements differ, `more` point to leaking and `fewer` away."""

    name: str
    more: int
    fewer: int
    p: float

    @property
    def found(self) -> bool:
        return self.p < LEVEL


@dataclass(frozen=True, kw_only=True)
class LabelLeakResult:
    """What the test found. `verdict` is "leaks" where at least one sign was found (the rule is `RULE`).

    The rows are right answers, all on the same images: clean, and crafted on the base for the true, the predicted and
    a wrong label. `answered` of those last images got that very wrong label as the answer.
    """

    model: str
    verdict: Literal["leaks", "passes"]
    clean: AccuracyResult
    true: AccuracyResult
    predicted: AccuracyResult
    wrong: AccuracyResult
    answered: int
    signs: tuple[Sign, ...]
    seed: int

    def __post_init__(self) -> None:
        expected = "leaks" if any(sign.found for sign in self.signs) else "passes"
        if self.verdict != expected:
            raise BadConfigError(f"the leak test of {self.model} says {self.verdict!r}, its signs say {expected!r}")

    @property
    def answered_interval(self) -> tuple[float, float]:
        return wilson(self.answered, self.wrong.total)


def leak_test(
    model: nn.Module,
    base: nn.Module,
    x: Images,
    y: Labels,
    *,
    true: Attack,
    predicted: Attack,
    given: Attack,
    seed: int = 0,
    name: str = "model",
    batch_size: int = 128,
    progress: Progress = _NO_PROGRESS,
) -> LabelLeakResult:
    """Attacks `base` three times at `x` and compares what `model` answers, image by image; the rule is `RULE`.

    `true` is called with the true labels, `predicted` with the base's answers, `given` with wrong labels drawn from
    `seed`, uniformly among the wrong ones; for an attack that uses the labels as they come, all three are the same
    setting. "passes" says that these images show no sign of leaking, so give it some hundred. Raises BadImagesError,
    and BadConfigError for a single class.
    """
    classes = _classes(base, x)
    check_labels(y, count=len(x), classes=classes)
    y = y.cpu()
    wrong = _wrong_labels(y, classes, seed)
    # a base that answers nothing (NaN) gets class 0 as what it predicts: some label must be given
    base_says = predict(base, x, batch_size=batch_size).clamp_min(0)

    def answers(attack: Attack, labels: Labels) -> Tensor:
        x_adv = run_attack(attack, base, x, labels, batch_size=batch_size, progress=progress)
        return predict(model, x_adv, batch_size=batch_size)

    on_clean = predict(model, x, batch_size=batch_size)
    on_true, on_predicted, on_wrong = answers(true, y), answers(predicted, base_says), answers(given, wrong)
    signs = (
        _sign("right under the true label, not on the clean image", on_true == y, on_clean == y),
        _sign("right under the true label, not under the predicted one", on_true == y, on_predicted == y),
        _sign("right under the true label, not under a wrong one", on_true == y, on_wrong == y),
        _sign("the wrong label answered where the attack was given it", on_wrong == wrong, on_true == wrong),
    )
    return LabelLeakResult(
        model=name,
        verdict="leaks" if any(sign.found for sign in signs) else "passes",
        clean=_row(name, None, on_clean == y, seed),
        true=_row(name, true, on_true == y, seed),
        predicted=_row(name, predicted, on_predicted == y, seed),
        wrong=_row(name, given, on_wrong == y, seed),
        answered=int((on_wrong == wrong).sum()),
        signs=signs,
        seed=seed,
    )


def _row(model: str, attack: Attack | None, right: Tensor, seed: int) -> AccuracyResult:
    return AccuracyResult.count(
        model=model,
        attack=attack.spec if attack else NO_ATTACK,
        threat="transfer" if attack else "clean",
        correct=int(right.sum()),
        total=len(right),
        seed=seed,
    )


def _sign(name: str, leaking: Tensor, otherwise: Tensor) -> Sign:
    more, fewer = int((leaking & ~otherwise).sum()), int((otherwise & ~leaking).sum())
    return Sign(name=name, more=more, fewer=fewer, p=sign_test(more, fewer))


def _classes(base: nn.Module, x: Images) -> int:
    with evaluating(base), torch.no_grad():
        classes = int(base(x[:1].to(device_of(base))).shape[1])
    if classes < 2:
        raise BadConfigError(f"the base has {classes} class; a leak test needs a wrong label, so 2 or more")
    return classes


def _wrong_labels(y: Labels, classes: int, seed: int) -> Labels:
    shift = torch.randint(1, classes, (len(y),), generator=generator(seed))
    return (y + shift) % classes
