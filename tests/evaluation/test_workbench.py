"""What the recipes share."""

import pytest

from loradar.attacks import AutoAttack, available_attacks, parse_attack

LOOKING = {
    "fia": {"layer2"},
    "fia-quick": {"layer2"},
    "fia:layer=layer1+fia": {"layer1", "layer2"},
    "pgd|fia": {"layer2"},
}


@pytest.mark.parametrize("text", [*available_attacks(), *LOOKING])
def test_every_attack_says_which_layers_it_looks_at(text: str) -> None:
    assert parse_attack(text).traits.layers == LOOKING.get(text, set())


def test_members_that_are_mere_names_look_at_none() -> None:
    assert AutoAttack(attacks=("apgd-ce", "square")).traits.layers == set()
