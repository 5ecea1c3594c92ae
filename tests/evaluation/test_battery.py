"""Which attacks a battery has, that each stays in the configured set, and that an image counts only if it survives all."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loradar.attacks import FGSM, FIA, MIFGSM, PGD, ROA, AutoAttack, Pyramid, RandomChoice, UniformNoise, WorstOf
from loradar.attacks.rectangles import grid
from loradar.core.balls import L2, Linf
from loradar.core.config import Effort
from loradar.core.types import Attack
from loradar.evaluation.battery import (
    BatteryMember,
    members,
    passes,
    probe_members,
    regions,
    run_battery,
    transfers,
)
from tests.attacks.toys import Net, answers, pictures
from tests.evaluation.toys import Keep

SHAPE = (3, 8, 8)
EFFORTS: tuple[Effort, ...] = ("quick", "standard", "full")


def names(attack: Attack, effort: Effort, classes: int = 10) -> list[str]:
    return [member.name for member in members(attack, effort, shape=SHAPE, classes=classes)]


def test_members_follow_the_set_that_the_attack_moves_in() -> None:
    for attack in (PGD(), FGSM(norm="l2"), MIFGSM(), FIA(), UniformNoise(), AutoAttack()):
        assert names(attack, "quick") == ["Smooth", "APGD-CE", "APGD-DLR"]
        assert names(attack, "standard")[:3] == ["Smooth", "APGD-CE", "APGD-T"]
    assert names(ROA(), "quick") == []
    assert names(ROA(), "standard") == names(ROA(), "full") == ["ROA-margin", "ROA-CE"]
    assert names(Pyramid(), "full") == names(Keep(), "full") == []
    for both in (WorstOf(attacks=(PGD(), ROA(), FGSM())), RandomChoice(attacks=(PGD(), ROA()))):
        assert len(regions(both)) == 2
        assert set(names(both, "standard")) >= {"APGD-T", "ROA-margin"}
    assert names(PGD(eps=0), "full") == []


@pytest.mark.parametrize(("classes", "name"), [(2, "APGD-margin"), (3, "APGD-DLR"), (4, "APGD-T"), (1000, "APGD-T")])
def test_the_losses_fit_the_number_of_classes(classes: int, name: str) -> None:
    for effort in ("standard", "full"):
        assert name in names(PGD(), effort, classes)


@pytest.mark.parametrize("attack", [PGD(eps=0.05), PGD(eps=0.4, norm="l2"), ROA(height=3, width=2)])
def test_every_member_stays_in_the_set(attack: Attack) -> None:
    model, x = Net(10), pictures(2).float()
    y = answers(model, x)
    effort: Effort = "standard" if isinstance(attack, ROA) else "quick"
    found = members(attack, effort, shape=SHAPE, classes=10)
    assert found
    for member in found:
        moved = member.attack(model, x, y) - x
        region = attack.traits.region
        if isinstance(region, Linf):
            assert float(moved.abs().max()) <= region.radius + 1e-6
        elif isinstance(region, L2):
            assert float(moved.flatten(1).norm(dim=1).max()) <= region.radius + 1e-6
        else:
            assert int((moved != 0).any(1).sum((1, 2)).max()) <= 6


@pytest.mark.parametrize("attack", [PGD(), PGD(norm="l2"), ROA(), WorstOf(attacks=(PGD(), ROA()))])
def test_more_effort_costs_more_and_is_checked_by_more_still(attack: Attack) -> None:
    costs = [passes(members(attack, effort, shape=(3, 32, 32), classes=10)) for effort in EFFORTS]
    assert costs == sorted(costs)
    assert len(set(costs)) == 3
    for effort, harder in zip(EFFORTS, (*EFFORTS[1:], "full"), strict=True):
        probe = probe_members(attack, effort, shape=SHAPE, classes=10)
        own = {member.attack.spec for member in members(attack, effort, shape=SHAPE, classes=10)}
        assert not own & {member.attack.spec for member in probe if not member.where_blind or effort == "full"}
        assert [m.name for m in probe] == [n for n in names(attack, harder) if n not in ("AutoAttack", "ROA-CE")]


def test_a_rectangle_with_many_positions_is_searched_coarsely() -> None:
    for shape, search in (((3, 32, 32), "exhaustive"), ((3, 128, 128), "coarse")):
        spread, dense = (m.attack for m in members(ROA(height=20, width=20), "full", shape=shape, classes=10))
        assert isinstance(spread, ROA)
        assert isinstance(dense, ROA)
        assert (spread.search, spread.stride) == ("exhaustive", 10)
        assert (dense.search, dense.stride, dense.height) == (search, 1, 20)


@pytest.mark.parametrize("size", [(3, 2), (1, 1), (8, 8), (5, 7)])
def test_restarts_at_spread_positions_are_all_different(size: tuple[int, int]) -> None:
    """A restart beyond the last position would only repeat the first: they end where the grid does."""
    spread = members(ROA(height=size[0], width=size[1]), "full", shape=SHAPE, classes=10)[0].attack
    assert isinstance(spread, ROA)
    places = grid(torch.zeros(1, *SHAPE), height=size[0], width=size[1], stride=spread.stride)
    assert spread.restarts == min(256, places.count)


@given(
    held=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5),
    right=st.lists(st.booleans(), min_size=6, max_size=6),
    blind=st.lists(st.booleans(), min_size=6, max_size=6),
    where=st.integers(0, 4),
)
def test_an_image_counts_if_it_survives_every_member(
    held: list[list[bool]], right: list[bool], blind: list[bool], where: int
) -> None:
    """And a member is asked about the images alone that are still right, or that have no gradient besides."""
    battery = [BatteryMember(name=str(i), attack=Keep(), where_blind=i == where) for i in range(len(held))]
    asked: dict[str, list[int]] = {}

    def survives(member: BatteryMember, rows: torch.Tensor) -> torch.Tensor:
        asked[member.name] = rows.tolist()
        return torch.tensor(held[int(member.name)])[rows]

    given_right = torch.tensor(right)
    left, results = run_battery(battery, given_right, survives, lambda: torch.tensor(blind))
    expected = list(right)
    for i, (member, result) in enumerate(zip(battery, results, strict=True)):
        tried = [k for k in range(6) if expected[k] and (blind[k] or not member.where_blind)]
        assert asked.get(member.name, []) == tried
        broke = [k for k in tried if not held[i][k]]
        assert (result.tried, result.broke) == (len(tried), len(broke))
        expected = [value and k not in broke for k, value in enumerate(expected)]
    assert left.tolist() == expected
    assert given_right.tolist() == right


def test_transfers_name_the_model_that_they_are_crafted_on() -> None:
    found = transfers(PGD(), ["base", "roa"])
    assert [(one.name, one.crafted_on, one.attack) for one in found] == [
        ("PGD on base", "base", PGD()),
        ("PGD on roa", "roa", PGD()),
    ]


def test_square_waits_for_images_without_a_gradient() -> None:
    pytest.importorskip("pyautoattack", reason="the extra `autoattack` is not installed")
    found: dict[str, Any] = {m.name: m for m in members(PGD(), "full", shape=SHAPE, classes=10)}
    assert [name for name, member in found.items() if member.where_blind] == ["Square"]
    assert found["AutoAttack"].attack == AutoAttack()
