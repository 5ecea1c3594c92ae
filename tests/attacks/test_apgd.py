"""Against the authors' own implementation, and what the method promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import APGD, PGD, AutoAttack
from loradar.attacks.apgd import _windows
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy, dlr, margin, targeted_dlr
from tests.attacks.toys import Counting, Linear, Net, answers, pictures


def trained(classes: int = 5, *, scale: float = 1.0) -> tuple[Net, Tensor, Tensor]:
    """A net fitted to random images, so that its margins are wide enough to tell attacks apart; logits times `scale`."""
    model, x = Net(classes), pictures(64, seed=3).float()
    y = torch.arange(64) % classes
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        for parameter in model.fc.parameters():
            parameter.mul_(scale)
    return model, x, answers(model, x)


def left(model: nn.Module, attack: Any, x: Tensor, y: Tensor) -> int:
    return int((answers(model, attack(model, x, y)) == y).sum())


THEIRS = {"cross_entropy": "apgd-ce", "dlr": "apgd-dlr", "dlr-targeted": "apgd-t"}


@pytest.mark.parametrize("loss", THEIRS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_leaves_as_few_images_right_as_the_authors_own(norm: Any, loss: Any) -> None:
    """At a radius where about a third of the images hold."""
    pytest.importorskip("pyautoattack", reason="the extra `autoattack` is not installed")
    model, x, y = trained()
    x, y = x[:32], y[:32]
    eps = {"linf": 0.03, "l2": 0.3}[norm]
    ours = left(model, APGD(eps=eps, norm=norm, loss=loss), x, y)
    theirs = left(model, AutoAttack(eps=eps, norm=norm, attacks=(THEIRS[loss],)), x, y)  # type: ignore[arg-type]
    assert 4 < theirs < 28
    assert ours <= theirs + 1


def test_is_at_least_as_strong_as_pgd_of_as_many_steps() -> None:
    model, x, y = trained()
    assert left(model, APGD(eps=0.03, steps=40), x, y) <= left(model, PGD(eps=0.03, steps=40, keep="best"), x, y) + 1


def test_huge_logits_hide_the_cross_entropy_alone() -> None:
    """The same answers at another scale: only a loss without units sees the same gradient."""
    model, x, y = trained(scale=1e5)
    plain, _, _ = trained()
    for loss in ("dlr", "dlr-targeted", "margin"):
        attack = APGD(eps=0.03, loss=loss, steps=30)
        assert abs(left(model, attack, x, y) - left(plain, attack, x, y)) <= 2
    hidden = APGD(eps=0.03, steps=30)
    assert left(model, hidden, x, y) > left(plain, hidden, x, y) + 10


def test_ratios_of_logits_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0], [1.0, 5.0, 3.0, 3.0]])
    y, target = torch.tensor([0, 0]), torch.tensor([2, 1])
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-2.0 / 3.0, 4.0 / 2.0]))
    torch.testing.assert_close(targeted_dlr(logits, y, target), torch.tensor([-2.0 / 3.5, 4.0 / 3.0]))
    torch.testing.assert_close(dlr(1e3 * logits + 7, y), dlr(logits, y))
    assert torch.isfinite(dlr(torch.zeros(1, 4), torch.tensor([0]))).all()


def test_checkpoints_are_those_of_the_paper() -> None:
    windows = _windows(100)
    assert [next(windows) for _ in range(8)] == [22, 19, 16, 13, 10, 7, 6, 6]
    assert next(_windows(1)) == 1


def test_passes_are_as_many_as_steps_and_one() -> None:
    counting = Counting(Net())
    APGD(steps=7)(counting, pictures(2).float(), torch.tensor([0, 1]))
    assert [len(x) for x in counting.seen] == [2] * 8


def test_targets_are_every_wrong_class_and_spare_the_fooled() -> None:
    counting = Counting(trained()[0])
    x, y = trained()[1:]
    APGD(loss="dlr-targeted", steps=3, eps=0.03)(counting, x, y)
    runs = [len(seen) for seen in counting.seen]
    assert runs[0] == 64  # the order of the classes
    assert runs.count(64) <= 1 + 4 + 1
    assert min(runs) < 64
    assert len(runs) <= 1 + 4 * (4 + 1)


@pytest.mark.parametrize(("loss", "classes"), [("dlr", 2), ("dlr-targeted", 3)])
def test_losses_that_need_more_classes_say_so(loss: Any, classes: int) -> None:
    model, x = Linear(classes), pictures(2)
    with pytest.raises(BadConfigError, match=f"needs {classes + 1} classes or more, the model has {classes}"):
        APGD(loss=loss)(model, x, answers(model, x))
    if classes == 2:
        APGD(loss="margin", steps=2)(model, x, answers(model, x))


def test_the_best_iterate_comes_back() -> None:
    """Never a lower loss than the best of all iterates that fooled the model, or of all."""
    model, x, y = trained()
    counting = Counting(model)
    x_adv = APGD(eps=0.03, steps=15)(counting, x, y)
    with torch.no_grad():
        seen = [model(images) for images in counting.seen if len(images) == 64]
        fooled = torch.stack([logits.argmax(1) != y for logits in seen])
        values = torch.stack([cross_entropy(logits, y) for logits in seen])
        final = model(x_adv)
    assert torch.equal(final.argmax(1) != y, fooled.any(0))
    best = torch.where(fooled.any(0), torch.where(fooled, values, -torch.inf).amax(0), values.amax(0))
    torch.testing.assert_close(cross_entropy(final, y), best)
    assert ((margin(final, y) > 0) == fooled.any(0)).all()
