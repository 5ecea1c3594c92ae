import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import BaseAttack
from loradar.core.errors import BadConfigError
from loradar.core.types import Attack
from loradar.evaluation import LabelLeakResult, leak_test
from loradar.evaluation.leak_planting import _wrong_labels
from tests.evaluation.toys import FirstPixel, Keep, Paint, coded_images

LABELS = torch.arange(200) % 10


class LastPixel(nn.Module):
    """A base that looks where `Paint` does not write; `noise` makes it wrong, a fixed way for each image."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(0, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        return -((x[:, 2, 3, 3, None] - self.levels) ** 2)


def images(labels: Tensor, classes: int = 10) -> Tensor:
    """The first pixel is the code of a random class, the last pixel that of the label."""
    x = torch.rand(len(labels), 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x[:, 2, 3, 3] = labels / (classes - 1)
    return x


def leak(model: nn.Module, attack: Attack, *, classes: int = 10, seed: int = 0) -> LabelLeakResult:
    y = LABELS % classes
    x = images(y, classes)
    base = LastPixel(classes)
    return leak_test(model, base, x, y, true=attack, predicted=attack, given=attack, seed=seed, name="m", batch_size=64)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_model_that_reads_the_label_off_the_perturbation_leaks(classes: int) -> None:
    found = leak(FirstPixel(classes), Paint(classes=classes), classes=classes)
    assert found.verdict == "leaks"
    assert found.true.correct == 200 > found.clean.correct
    # it answers whatever the attack was given
    assert found.answered == 200
    assert found.wrong.correct == 0
    assert found.signs[-1].found


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_model_that_ignores_the_perturbation_passes(classes: int) -> None:
    found = leak(LastPixel(classes), Paint(classes=classes), classes=classes)
    assert found.verdict == "passes"
    assert found.true.correct == found.wrong.correct == 200
    assert found.answered == 0


@pytest.mark.parametrize("classes", [2, 10])
def test_a_model_that_the_attack_beats_passes(classes: int) -> None:
    """A perturbation that hides the label it was given: the weak model answers the next class, and nothing leaks."""
    found = leak(FirstPixel(classes), Paint(classes=classes, shift=1), classes=classes)
    assert found.verdict == "passes" if classes == 10 else found.true.correct == 0
    assert found.true.correct == 0


def test_a_model_that_answers_at_random_passes_nearly_always() -> None:
    class Dice(nn.Module):
        """Answers by the low bits of a pixel, so differently for every image and every perturbation."""

        def forward(self, x: Tensor) -> Tensor:
            code = (x.flatten(1).sum(1) * 1e5).long() % 10
            return torch.nn.functional.one_hot(code, 10).float()

    attack = Shake()
    verdicts = [leak(Dice(), dataclasses.replace(attack, seed=seed), seed=seed).verdict for seed in range(40)]
    assert verdicts.count("leaks") <= 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shake(BaseAttack):
    """Noise that depends on the label given."""

    spec_name: ClassVar[str] = "shake"

    seed: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        noise = torch.rand(10, *x.shape[1:], generator=torch.Generator().manual_seed(self.seed))[y]
        return (0.9 * x + 0.1 * noise).clamp(0, 1)


def test_the_predicted_label_is_what_the_base_says() -> None:
    """Where the base is wrong, only the attack that was given the true label can tell it."""
    y, shown = LABELS, (LABELS + (torch.arange(200) < 60)) % 10
    found = leak_test(
        FirstPixel(), LastPixel(), images(shown), y, true=Paint(), predicted=Paint(), given=Paint(), name="m"
    )
    assert (found.true.correct, found.predicted.correct) == (200, 140)
    assert found.signs[1].more == 60
    assert found.signs[1].found


def test_wrong_labels_are_wrong_and_uniform() -> None:
    y = torch.arange(9000) % 10
    wrong = _wrong_labels(y, 10, seed=0)
    assert not bool((wrong == y).any())
    assert torch.bincount((wrong - y) % 10, minlength=10)[1:].min() > 850
    assert torch.equal(wrong, _wrong_labels(y, 10, seed=0))


def test_every_row_says_its_attack_and_that_it_was_computed_on_the_base() -> None:
    found = leak(FirstPixel(), Paint())
    assert found.clean.attack == "none"
    assert found.true.attack == Paint().spec == "paint"
    assert {found.true.threat, found.predicted.threat, found.wrong.threat} == {"transfer"}


def test_one_class_has_no_wrong_label() -> None:
    y = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(BadConfigError, match="1 class"):
        leak_test(LastPixel(1), LastPixel(1), coded_images(y), y, true=Keep(), predicted=Keep(), given=Keep())


def test_a_verdict_that_contradicts_its_signs_is_refused() -> None:
    with pytest.raises(BadConfigError, match="its signs say"):
        dataclasses.replace(leak(FirstPixel(), Paint()), verdict="passes")
