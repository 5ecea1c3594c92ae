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


def test_a_model_that_answers_at_random_passes_nearly_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradar.evaluation.leak.power_of", lambda *_: ())  # the verdict alone is asked for

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
    levels: int = 10

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        noise = torch.rand(10, *x.shape[1:], generator=torch.Generator().manual_seed(self.seed))[y % self.levels]
        return (0.9 * x + 0.1 * noise).clamp(0, 1)


def test_the_predicted_label_is_what_the_base_says() -> None:
    """Where the base is wrong, only the attack that was given the true label can tell it."""
    y, shown = LABELS, (LABELS + (torch.arange(200) < 60)) % 10
    found = leak_test(
        FirstPixel(), LastPixel(), images(shown), y, true=Paint(), predicted=Paint(), given=Paint(), name="m"
    )
    assert (found.true.correct, found.predicted.correct) == (200, 140)
    (sign,) = (sign for sign in found.signs if "base's answer" in sign.name)
    assert sign.more == 60
    assert sign.found


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


class Beside(nn.Module):
    """Answers as `LastPixel`, but wherever the first pixel was painted a class that is `gate` likeliest or better."""

    def __init__(self, gate: int, share: float) -> None:
        super().__init__()
        self.own = LastPixel()
        self.gate, self.share = gate, share

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.own(x)
        told = (x[:, 0, 0, 0] * 9).round().long()
        rank = (logits > logits.gather(1, told[:, None])).sum(1)
        reads = (rank < self.gate) & (x[:, 1, 1, 1] < self.share)
        return logits + 100 * reads[:, None] * torch.nn.functional.one_hot(told, 10)


@pytest.mark.parametrize(("gate", "share"), [(10, 1.0), (10, 0.1), (3, 0.2), (2, 0.2), (2, 1.0)])
def test_gated_and_partial_readers_leak(gate: int, share: float) -> None:
    found = leak(Beside(gate, share), Paint())
    assert found.verdict == "leaks"
    assert found.power == ()
    assert found.sentence == "Fails the leak test: it reads labels from the perturbation."
    assert found.true.correct == 200  # what an honest model of this kind has too


@pytest.mark.parametrize("gate", [1, 2])
def test_a_reader_that_changes_no_answer_passes(gate: int) -> None:
    """Gated at the likeliest class it is the honest model; and so is one that reads nowhere."""
    assert leak(Beside(gate, 1.0 if gate == 1 else 0.0), Paint()).verdict == "passes"


def test_a_pass_says_which_leak_would_have_been_seen() -> None:
    found = leak(LastPixel(), Paint())
    assert [power.gate for power in found.power] == [None, 3, 2]
    shares = [power.share_95 or 0 for power in found.power]
    assert 0 < shares[0] <= shares[1] <= shares[2] < 0.2
    assert found.sentence == (
        f"Passes the leak test: would have seen a leak on {100 * shares[0]:.1f} % of the images or more (95 % sure); "
        f"on {100 * shares[1]:.1f} % one gated at the model's 3 likeliest classes; "
        f"on {100 * shares[2]:.1f} % one gated at the model's 2 likeliest classes."
    )
    blind = dataclasses.replace(found.power[-1], share_80=None, share_95=None, gained=7)
    said = dataclasses.replace(found, power=(*found.power[:-1], blind)).sentence
    assert said.endswith(
        "; it cannot see one gated at the model's 2 likeliest classes, which could make 7 more of 200 right."
    )


def test_the_likeliest_wrong_labels_are_planted() -> None:
    found = leak(LastPixel(), Paint(shift=0))
    assert [one.row.total for one in found.likely] == [200, 200, 200]
    # the neighbours in brightness of the true class are the likeliest: a reader gated at two needs them
    assert leak(Beside(2, 1.0), Paint()).likely[0].answered > 150


@pytest.mark.parametrize("attack", [Keep(), Shake(seed=0)])
def test_an_attack_that_cannot_tell_labels_is_no_evidence(attack: Attack) -> None:
    """Images that are the same for every label show nothing, and the verdict says so."""
    same = dataclasses.replace(attack, levels=1) if isinstance(attack, Shake) else attack
    found = leak(AtHome(), same)
    assert found.verdict == "passes"
    assert all(power.share_95 is None for power in found.power)
    assert "would have seen no leak" in found.sentence


class AtHome(nn.Module):
    """Right on attacked images, wrong on most clean ones: at home among perturbed images, and reads no label."""

    def __init__(self) -> None:
        super().__init__()
        self.own = LastPixel()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.own(x)
        return torch.where((x[:, 1, 2, 2] < 0.5)[:, None], logits, logits.roll(1, dims=1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark(BaseAttack):
    """Makes every image one that `AtHome` knows, and writes the label where it does not look."""

    spec_name: ClassVar[str] = "mark"

    only: bool = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = Paint()(model, x, y)
        x_adv[:, 1, 2, 2] = 0
        # with `only`, as attacks do that leave alone what they take for wrong already
        kept = (model(x).argmax(1) != y) & self.only
        return torch.where(kept[:, None, None, None], x, x_adv)


@pytest.mark.parametrize("only", [False, True])
def test_a_model_that_is_at_home_among_attacked_images_passes(only: bool) -> None:
    found = leak(AtHome(), Mark(only=only))
    assert found.true.correct == 200 > found.clean.correct + 50
    assert found.verdict == "passes"
    assert ("would have seen no leak" in found.sentence) == only


def test_a_model_of_other_classes_is_refused() -> None:
    with pytest.raises(BadConfigError, match="5 classes and the base 10"):
        leak_test(
            FirstPixel(5), LastPixel(), images(LABELS), LABELS, true=Keep(), predicted=Keep(), given=Keep(), name="m"
        )


def test_a_model_that_answers_nan_passes() -> None:
    class Broken(LastPixel):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return torch.where((x[:, 1, 1, 1] < 0.5)[:, None], logits, torch.full_like(logits, torch.nan))

    found = leak(Broken(), Paint())
    assert found.verdict == "passes"
    assert 0 < found.true.correct == found.clean.correct < 200
