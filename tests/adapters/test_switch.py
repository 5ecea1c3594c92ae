"""One model, many adapters, one of them active at a time."""

import pytest
import torch

from loradar.adapters import AdapterSwitch, fingerprint, init_adapter, plug
from loradar.core.errors import BadConfigError, WrongBaseError
from tests.adapters.tiny import images, resnet, trained


def test_it_answers_as_the_adapter_in_use_and_as_the_base_before_and_after() -> None:
    base, x = resnet(), images()
    before, branch_equivalent = fingerprint(base), base(x)
    pool = {name: trained(base, "block-conv1", seed=i, norm="owned") for i, name in enumerate("abc")}
    switch = AdapterSwitch(base, pool)
    assert switch.names == ("a", "b", "c")
    assert torch.equal(switch(x), branch_equivalent)
    for name in "abcab":
        switch.use(name)
        assert switch.used == name
        assert torch.equal(switch(x), plug(base, pool[name])(x))
        assert not torch.equal(switch(x), branch_equivalent)
    switch.use(None)
    assert torch.equal(switch(x), branch_equivalent)
    assert fingerprint(base) == before


def test_only_what_is_in_use_hangs_on_the_switch() -> None:
    """So that an attack, which puts its model into eval mode, takes as long for one adapter as for a hundred."""
    base = resnet()
    switch = AdapterSwitch(base, {name: trained(base, "block-conv1", seed=0) for name in "ab"})
    count = len(list(switch.modules()))
    switch.use("a")
    switch.add("c", trained(base, "block-conv1", seed=1))
    assert len(list(switch.modules())) == count
    theirs = {p.data_ptr() for p in base.parameters()}
    heads = {"fc.weight", "fc.bias"}
    own = {name for name, p in switch.model.named_parameters() if p.data_ptr() not in theirs}
    assert {name.split(".", 1)[-1] for name in own} == heads, "a copy holds nothing of the base's twice"


def test_adding_again_and_removing_what_is_in_use() -> None:
    base, x = resnet(), images()
    first, second = (trained(base, "block-conv1", seed=seed) for seed in (0, 1))
    switch = AdapterSwitch(base, {"a": first})
    switch.use("a")
    switch.add("a", second)
    assert torch.equal(switch(x), plug(base, second)(x))
    switch.remove("a")
    assert switch.used is None
    assert torch.equal(switch(x), base(x))
    assert switch.names == ()


def test_unknown_names_and_other_bases_are_refused() -> None:
    base = resnet()
    switch = AdapterSwitch(base, {"fog": trained(base, "block-conv1", seed=0)})
    for ask in (switch.use, switch.remove):
        with pytest.raises(BadConfigError, match="did you mean 'fog'"):
            ask("frog")
    with pytest.raises(WrongBaseError, match="belongs to the base"):
        switch.add("other", init_adapter(resnet(seed=1), target_modules="block-conv1"))
    assert switch.names == ("fog",)
