"""What the recipes share."""

import pytest

from loradar.attacks import AutoAttack, layers_read
from loradar.attacks.registry import ATTACKS, parse_attack

LOOKING = {"fia": {"layer2"}, "fia:layer=layer1+fia": {"layer1", "layer2"}, "pgd|fia": {"layer2"}}


@pytest.mark.parametrize("text", [*ATTACKS, *LOOKING])
def test_every_attack_says_which_layers_it_looks_at(text: str) -> None:
    assert layers_read(parse_attack(text)) == LOOKING.get(text, set())


def test_members_that_are_mere_names_look_at_none() -> None:
    assert layers_read(AutoAttack(attacks=("apgd-ce", "square"))) == set()
