"""Label leaking: does the model read the true label out of the perturbation that was computed from it?

A perturbation computed from the true label against a fixed network can encode that label; a model trained on such
images then looks robust because it is told the answer. Kurakin et al., "Adversarial Machine Learning at Scale", 2017,
section 4.4, name the effect; the probe by wrong labels is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.types import Attack, Images, Labels, NullProgress, Progress
from loradar.evaluation.intervals import wilson
from loradar.evaluation.leak_planting import LIKELY, plant
from loradar.evaluation.leak_power import LeakPower, power_of
from loradar.evaluation.leak_signs import LEVELS, PREDICTED, TRUE, WRONG, Sign, any_found, signs_of
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult

RULE = (
    "The same images are attacked on the unmodified base for several labels: the true one, the base's own answer, a wrong "
    f"label drawn at random, and the {LIKELY} wrong labels that the model finds likeliest on the clean image. An attack "
    "pushes away from the label that it is given, so an honest model answers that label no more often than under the "
    "others. The model leaks when it answers a wrong label under one of these attacks alone, and that is the attack that "
    "was given the label, more often than by chance (counted on all images, on the half that the model is surest of when "
    "clean, and on those where every planted label is answered once). It also leaks when, image by image, it is right more "
    "often under the true label than under the base's answer or under the random wrong one, or answers the random wrong "
    "label more often where the attack was given it than where it was given the true one. Each is an exact one-sided test; "
    f"together they accuse an honest model with a probability of 1 % at most (level {LEVELS['surest']} for the surest half, "
    f"{LEVELS['other']} for each of the others). The power says which leak would have been seen: the model is made to give "
    "the planted label on a share of the images, wherever it is among its own likeliest classes, and the same tests are "
    "applied. Reports of earlier versions planted only one wrong label, compared also with clean images, and did not say "
    "their power."
)

_NO_PROGRESS = NullProgress()


@dataclass(frozen=True, kw_only=True)
class PlantedLabel:
    """The images attacked for one wrong label each: right answers, and how many got that very label as the answer."""

    row: AccuracyResult
    answered: int

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.answered, self.row.total)


@dataclass(frozen=True, kw_only=True)
class LabelLeakResult:
    """What the test found. `verdict` is "leaks" where at least one sign was found (the rule is `RULE`).

    The rows are right answers, all on the same images: clean, and crafted on the base for the true, the predicted and
    a wrong label. `answered` of those last images got that very wrong label as the answer. `likely` is the same for the
    wrong labels that the model finds likeliest. `power` says which leak would have been seen: empty where one was found,
    and in reports of earlier versions.
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
    likely: tuple[PlantedLabel, ...] = ()
    power: tuple[LeakPower, ...] = ()

    def __post_init__(self) -> None:
        expected = "leaks" if any_found(self.signs) else "passes"
        if self.verdict != expected:
            raise BadConfigError(f"the leak test of {self.model} says {self.verdict!r}, its signs say {expected!r}")

    @property
    def answered_interval(self) -> tuple[float, float]:
        return wilson(self.answered, self.wrong.total)

    @property
    def sentence(self) -> str:
        """The verdict in words, with the power of the test beside a pass."""
        if self.verdict == "leaks":
            return "Fails the leak test: it reads labels from the perturbation."
        return f"Passes the leak test{_power_in_words(self.power)}."


def _power_in_words(power: Sequence[LeakPower]) -> str:
    if not power:
        return ""
    if all(one.share_95 is None for one in power):
        return ", but it would have seen no leak: too few images, or the attack's images do not depend on the label"
    parts = []
    for one in power:
        gate = f" gated at the model's {one.gate} likeliest classes" if one.gate else ""
        if one.share_95 is None:
            parts.append(f"it cannot see one{gate}, which could make {one.gained} more of {one.total} right")
        elif parts:
            parts.append(f"on {_percent(one.share_95)} % one{gate}")
        else:
            parts.append(
                f"would have seen a leak{gate} on {_percent(one.share_95)} % of the images or more (95 % sure)"
            )
    return f": {'; '.join(parts)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.1f}"


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
    """Attacks `base` at `x` for several labels and compares what `model` answers, image by image; the rule is `RULE`.

    `true` is called with the true labels, `predicted` with the base's answers where those are wrong, `given` with wrong
    labels: one drawn from `seed`, uniformly among the wrong ones, and the likeliest others (fewer where there are fewer
    classes). For an attack that uses the labels as they come, all are the same setting. "passes" says that these images
    show no sign of leaking, and `power` what they would have shown; give it some hundred. Raises BadImagesError, and
    BadConfigError for a single class.
    """
    found = plant(
        model,
        base,
        x,
        y,
        true=true,
        predicted=predicted,
        given=given,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    signs, right, answered = signs_of(found), found.answers == found.y[:, None], found.answers == found.labels
    leaks = any_found(signs)
    return LabelLeakResult(
        model=name,
        verdict="leaks" if leaks else "passes",
        clean=_row(name, None, found.clean == found.y, seed),
        true=_row(name, true, right[:, TRUE], seed),
        predicted=_row(name, predicted, right[:, PREDICTED], seed),
        wrong=_row(name, given, right[:, WRONG], seed),
        answered=int(answered[:, WRONG].sum()),
        signs=signs,
        seed=seed,
        likely=tuple(
            PlantedLabel(row=_row(name, given, right[:, column], seed), answered=int(answered[:, column].sum()))
            for column in range(WRONG + 1, right.shape[1])
        ),
        power=() if leaks else power_of(found, seed),
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
