"""MSD beside a plain loop of the paper's algorithm 1, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.attacks import MSD, PGD, ROA, parse_attack
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy
from tests.attacks.toys import Net, answers, pictures

LINF, L2 = 0.05, 0.6


def members(steps: int, *, random_start: bool = False, seed: int = 0) -> tuple[PGD, PGD]:
    return (
        PGD(eps=LINF, steps=steps, step_size=0.02, random_start=random_start, seed=seed),
        PGD(eps=L2, norm="l2", steps=steps, step_size=0.2, random_start=random_start, seed=seed),
    )


def algorithm_1(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, list[list[int]]]:
    """One image after the other, in the paper's words; and which norm was taken at each step."""
    found, taken = [], []
    for image, label in zip(x, y, strict=True):
        delta, norms = torch.zeros_like(image), []
        for _ in range(steps):
            leaf = delta.clone().requires_grad_()
            F.cross_entropy(model((image + leaf)[None]), label[None]).backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            by_sign = (delta + 0.02 * leaf.grad.sign()).clamp(-LINF, LINF)
            by_length = delta + 0.2 * leaf.grad / leaf.grad.norm()
            by_length = by_length * min(1.0, LINF and L2 / float(by_length.norm()))
            proposals = [(image + each).clamp(0, 1) - image for each in (by_sign, by_length)]
            with torch.no_grad():
                losses = [float(F.cross_entropy(model((image + each)[None]), label[None])) for each in proposals]
            norms.append(losses.index(max(losses)))
            delta = proposals[norms[-1]]
        found.append(image + delta)
        taken.append(norms)
    return torch.stack(found), taken


def test_it_is_algorithm_1() -> None:
    model, x = Net().double().eval(), pictures(6)
    y = answers(model, x)
    expected, taken = algorithm_1(model, x, y, steps=6)
    torch.testing.assert_close(MSD(attacks=members(6))(model, x, y), expected, rtol=0, atol=1e-9)
    assert {norm for norms in taken for norm in norms} == {0, 1}, "both balls had their say"


@pytest.mark.parametrize("random_start", [False, True])
def test_every_image_is_in_one_of_the_balls(random_start: bool) -> None:
    model, x = Net().double(), pictures(12)
    change = (MSD(attacks=members(5, random_start=random_start))(model, x, answers(model, x)) - x).flatten(1)
    inside = (change.abs().amax(1) <= LINF + 1e-9) | (change.norm(dim=1) <= L2 + 1e-9)
    assert inside.all()


def test_one_member_is_that_member() -> None:
    model, x = Net().double(), pictures(5)
    y = answers(model, x)
    for attack in (PGD(steps=4), PGD(norm="l2", steps=4, random_start=False, keep="best"), PGD(steps=3, loss="kl")):
        torch.testing.assert_close(MSD(attacks=(attack,))(model, x, y), attack(model, x, y), rtol=0, atol=1e-12)


def test_it_raises_the_loss_more_than_each_first_step() -> None:
    model, x = Net().double(), pictures(8)
    y = answers(model, x)
    first = MSD(attacks=members(1))(model, x, y)
    losses = [cross_entropy(model(attack(model, x, y)), y) for attack in members(1)]
    assert torch.equal(cross_entropy(model(first), y), torch.maximum(*losses))


def test_the_spec_is_read_back() -> None:
    text = 'msd:attacks="pgd:steps=20+pgd:eps=1,norm=l2,steps=20"'
    attack = parse_attack(text)
    assert attack == MSD(attacks=(PGD(steps=20), PGD(norm="l2", eps=1, steps=20)))
    assert attack.spec == text
    assert parse_attack(f"{text}|roa").traits.parts[0] == attack
    assert parse_attack("msd") == MSD()
    assert MSD().spec == "msd"


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        ((PGD(), ROA()), "attacks is roa among others; msd takes gradient steps of pgd alone"),
        ((PGD(), PGD(norm="l2", restarts=2)), "among others; msd takes pgd without restarts"),
        ((PGD(), PGD(norm="l2", steps=20)), "attacks is of steps 10 and 20; msd takes pgd of the same steps"),
        ((PGD(), PGD(norm="l2", loss="margin")), "of loss cross_entropy and margin; msd takes pgd of the same loss"),
        ((), "expected one or more"),
    ],
)
def test_members_that_do_not_fit_are_refused(attacks: tuple[PGD, ...], says: str) -> None:
    with pytest.raises(BadConfigError, match=says):
        MSD(attacks=attacks)


def test_a_spec_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(BadConfigError, match="msd:attacks is roa among others; msd takes gradient steps of pgd alone"):
        parse_attack('msd:attacks="pgd+roa"')
