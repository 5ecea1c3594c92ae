"""What jobs work with: copies for attacking, and the layers that attacks look at."""

from pathlib import Path

import pytest
from torch import nn

from loradar.attacks import AutoAttack, available_attacks, parse_attack
from loradar.core.modules import find_layer, middle_layer
from loradar.core.types import NullProgress
from loradar.evaluation import Workbench
from loradar.models import Base
from loradar.training import AdversarialCache

LOOKING = {
    "fia": {"auto"},
    "fia-quick": {"auto"},
    "fia:layer=layer1+fia": {"layer1", "auto"},
    "pgd|fia": {"auto"},
}


@pytest.mark.parametrize("text", [*available_attacks(), *LOOKING])
def test_every_attack_says_which_layers_it_looks_at(text: str) -> None:
    assert parse_attack(text).traits.layers == LOOKING.get(text, set())


def test_members_that_are_mere_names_look_at_none() -> None:
    assert AutoAttack(attacks=("apgd-ce", "square")).traits.layers == set()


def test_a_layer_that_an_attack_looks_at_is_not_merged_away(tmp_path: Path) -> None:
    """Also where its name is left to be found: here the middle child is a normalisation behind a convolution."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 28**2, 2)
    )
    assert middle_layer(net) == "1"
    base = Base.of(net.eval(), input_size=(3, 32, 32))
    bench = Workbench(
        base=base,
        precision="fp32",
        merge=(("0", "1"),),
        cache=AdversarialCache(tmp_path),
        batch_size=4,
        progress=NullProgress(),
    )
    assert isinstance(find_layer(bench.optimized(base.model), "1"), nn.Identity)
    assert isinstance(find_layer(bench.optimized(base.model, parse_attack("fia")), "1"), nn.BatchNorm2d)
