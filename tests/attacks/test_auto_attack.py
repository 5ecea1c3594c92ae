import sys
from typing import get_args

import pytest
import torch

from loradar.attacks import AutoAttack
from loradar.attacks.auto_attack import Member, members
from loradar.core.errors import BadConfigError
from tests.attacks.toys import Linear, answers, pictures

pytest.importorskip("pyautoattack", reason="the extra `autoattack` is not installed")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fools_exactly_where_the_closed_form_says(norm: str) -> None:
    """On a linear model of two classes, far from the border of the box, the best margin is known."""
    model, x = Linear(seed=1).float(), pictures(12, low=0.45, high=0.55).float()
    y = answers(model, x)
    w = Linear(seed=1).margin_weights(y).float()
    logits = model(x).detach()
    gap = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    sizes = w.abs().sum((1, 2, 3)) if norm == "linf" else w.flatten(1).norm(dim=1)
    radius = float((gap / sizes).median())
    attack = AutoAttack(norm=norm, eps=radius, attacks=("apgd-ce", "fab-t"))  # type: ignore[arg-type]
    fooled = answers(model, attack(model, x, y)) != y
    clear = ((gap / sizes) / radius - 1).abs() > 0.02
    assert torch.equal(fooled[clear], (gap / sizes < radius)[clear])
    assert fooled.any()
    assert not fooled.all()


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_standard_version_runs_for_few_classes(classes: int) -> None:
    model, x = Linear(classes).float(), pictures(3).float()
    y = answers(model, x)
    # large enough that the first members fool all: Square's 5,000 queries are not for a quick test
    x_adv = AutoAttack(eps=0.5)(model, x, y)
    assert (answers(model, x_adv) != y).all()


def test_square_runs_where_there_is_no_gradient() -> None:
    model, x = Linear().float(), pictures(2).float()
    y = answers(model, x)
    attack = AutoAttack(eps=0.5, attacks=("square",))
    with torch.no_grad():
        assert (answers(model, attack(model, x, y)) != y).all()


def test_misclassified_images_come_back_as_they_were() -> None:
    model, x = Linear().float(), pictures(2).float()
    assert torch.equal(AutoAttack(attacks=("apgd-ce",))(model, x, 1 - answers(model, x)), x)


def test_members_for_each_number_of_classes() -> None:
    assert members(None, 2) == ("apgd-ce", "fab-t", "square")
    assert members(None, 10) == members(None, 4) == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert members(("square",), 2) == ("square",)
    for name in get_args(Member):
        assert members((name,), 10) == (name,)
    with pytest.raises(BadConfigError, match="apgd-t needs 4 classes or more; the model has 3"):
        members(("apgd-t",), 3)


def test_trace_function_is_kept() -> None:
    """The package turns tracing off; coverage and debuggers live on it."""
    before = sys.gettrace()

    def trace(*_: object) -> None: ...

    model, x = Linear().float(), pictures(1).float()
    sys.settrace(trace)
    try:
        AutoAttack(attacks=("apgd-ce",))(model, x, answers(model, x))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(BadConfigError, match="pip install 'loradar\\[autoattack\\]'"):
        AutoAttack()(Linear().float(), pictures(1).float(), torch.tensor([0]))
