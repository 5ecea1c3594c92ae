"""Copies of what users wrote: bound to themselves, or refused by the module's name."""

import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loradar.core.copying import copy_model
from loradar.core.errors import BadConfigError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out

    def another(self, x: Tensor) -> Tensor:
        out: Tensor = -self.conv(x)
        return out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.fc = Block(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block(x).mean((2, 3)))
        return logits


def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def depends_on_itself(net: nn.Module) -> bool:
    """Whether what the copy computes follows a change of the copy's own convolution."""
    copied = copy_model(net, share=True)
    before = copied(images())
    weight = copied.get_submodule("block.conv").weight
    assert isinstance(weight, Tensor)
    copied.get_submodule("block.conv").register_parameter("weight", nn.Parameter(weight + 1))
    return not torch.equal(copied(images()), before)


def held(net: Any, value: object) -> None:
    net.block.forward = value


REBOUND: dict[str, Callable[[Any], object]] = {
    "a bound method": lambda net: held(net, net.block.another),
    "a method of a submodule": lambda net: held(net, net.block.conv.forward),
    "a partial of a bound method": lambda net: held(net, functools.partial(net.block.another)),
    "a partial of a module": lambda net: held(net, functools.partial(net.block.conv)),
    "a bound method in a list": lambda net: setattr(net, "calls", [net.block.another]),
    "a module in a tuple": lambda net: setattr(net, "kept", (net.block,)),
    "a function that holds no module": lambda net: setattr(net, "act", lambda x: x * 2),
    "a bound function": lambda net: held(net, MethodType(lambda self, x: -self.conv(x), net.block)),
    "a hook of the state": lambda net: net.register_state_dict_post_hook(lambda *_: net.block),
    "a hook": lambda net: net.block.register_forward_hook(lambda _m, _x, out: out * 2),
    "a compiled call": lambda net: setattr(net.block, "_compiled_call_impl", None),
}


@pytest.mark.parametrize("change", REBOUND.values(), ids=list(REBOUND))
def test_what_a_copy_can_make_its_own(change: Callable[[Any], object]) -> None:
    net = Net().eval()
    change(net)
    assert depends_on_itself(net)
    assert torch.equal(copy_model(net)(images()), net(images()))


def closure(net: Any) -> Callable[[Tensor], Tensor]:
    forward = net.block.forward
    return lambda x: forward(x)


def cached(net: Any) -> Callable[[Tensor], Tensor]:
    found: Callable[[Tensor], Tensor] = functools.lru_cache(net.block.forward)
    return found


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no_grad": (lambda net: held(net, torch.no_grad()(net.block.forward)), "'block' keeps a function as 'forward'"),
    "autocast": (
        lambda net: held(net, torch.autocast("cpu")(net.block.forward)),
        "'block' keeps a function as 'forward'",
    ),
    "compile": (lambda net: held(net, torch.compile(net.block.forward)), "'block' keeps a function as 'forward'"),
    "a closure": (lambda net: held(net, closure(net)), "'block' keeps a function as 'forward'"),
    "a function of nothing": (lambda net: held(net, lambda x: x.mean(1)), "'block' keeps a function as 'forward'"),
    "a partial of a closure": (
        lambda net: held(net, functools.partial(closure(net))),
        "'block' keeps a function as 'forw",
    ),
    "a cache": (lambda net: held(net, cached(net)), "'block' keeps a function as 'forward'"),
    "a closure that is bound": (
        lambda net: held(net, MethodType(lambda _self, x, f=net.block.forward: f(x), net.block)),
        "'block' keeps a function as 'forward'",
    ),
    "a weak reference": (
        lambda net: setattr(net, "whole", weakref.ref(net.block)),
        "the model keeps a function as 'whole'",
    ),
    "another method": (
        lambda net: setattr(net.block, "another", closure(net)),
        "'block' keeps a function as 'another'",
    ),
    "a closure under a new name": (
        lambda net: setattr(net, "run", closure(net)),
        "the model keeps a function as 'run'",
    ),
    "a default": (lambda net: setattr(net, "run", eval("lambda x, m=m: m(x)", {"m": net.block})), "function as 'run'"),
    "a closure in a dictionary": (lambda net: setattr(net, "runs", {"a": [closure(net)]}), "function as 'runs'"),
    "a hook that calls a module": (
        lambda net: net.block.register_forward_hook(lambda _m, x, _out: net.block.conv(x[0])),
        "'block' keeps a function as '_forward_hooks'",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_go_on_calling_the_original(change: Callable[[Any], object], message: str) -> None:
    net = Net().eval()
    change(net)
    for share in (True, False):
        with pytest.raises(BadConfigError, match=message) as caught:
            copy_model(net, share=share)
        assert "\n" not in str(caught.value)


def test_a_compiled_model_is_refused() -> None:
    with pytest.raises(BadConfigError, match="the model keeps a function as"):
        copy_model(torch.compile(Net()))  # type: ignore[type-var]


def test_a_copy_that_is_the_original_is_refused() -> None:
    class Same(nn.Module):
        def __deepcopy__(self, _memo: object) -> "Same":
            return self

    with pytest.raises(BadConfigError, match="the module '0' gives itself as its copy"):
        copy_model(nn.Sequential(Same()))


def test_an_activation_that_is_kept_comes_without_its_graph() -> None:
    net: Any = Net().eval()
    net.last = net.block(images())
    net.history = [{"maps": net.last}]
    net.register_buffer("mean_map", net.last.mean(0))
    copied: Any = copy_model(net, share=True)
    assert torch.equal(copied.last, net.last)
    assert not copied.last.requires_grad
    assert copied.history[0]["maps"] is copied.last
    assert torch.equal(copied.mean_map, net.mean_map)
    assert net.last.requires_grad


class Slots:
    __slots__ = ("left", "value")

    def __init__(self, value: object) -> None:
        self.value = value


HOLDERS: dict[str, Callable[[Tensor], object]] = {
    "deque": lambda t: deque([t]),
    "slots": Slots,
    "slots in a list": lambda t: [Slots({"last": t})],
    "list": lambda t: [(t,)],
    "object": lambda t: SimpleNamespace(last=t),
    "dict with attributes": lambda t: Kind(t),
}


class Kind(dict[str, object]):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


@pytest.mark.parametrize("holder", HOLDERS)
def test_activations_in_any_holder_come_without_their_graph(holder: str) -> None:
    net: Any = Net()
    activation = net.block(images())
    net.kept = HOLDERS[holder](activation)
    copied = copy_model(net, share=True)
    assert copied.kept is not net.kept
    assert activation.grad_fn is not None
    torch.testing.assert_close(copied(images()), net(images()))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.block, self.rnn = Block(), kind(4, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(self.block(x).flatten(2).transpose(1, 2))[0].mean(1)
        return out


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_copied(kind: Callable[..., nn.Module], options: dict[str, Any], share: bool) -> None:
    net = Recurrent(kind, **options).eval()
    copied = copy_model(net, share=share)
    before = net(images())
    torch.testing.assert_close(copied(images()), before)
    assert depends_on_itself(net)
    rnn: Any = copied.rnn
    assert [ref() for ref in rnn._flat_weight_refs] == list(rnn.parameters())
    if not share:
        with torch.no_grad():
            rnn.weight_hh_l0.add_(1)
        assert not torch.equal(copied(images()), before)
        torch.testing.assert_close(net(images()), before)


@pytest.mark.parametrize("module", [torch.nn.functional, torch, functools], ids=lambda m: m.__name__)
def test_a_python_module_that_is_kept_is_the_same_in_a_copy(module: object) -> None:
    net: Any = Net()
    net.block.kept, net.several = module, [{"one": module}]
    copied: Any = copy_model(net, share=True)
    assert copied.block.kept is module
    assert copied.several[0]["one"] is module
    assert depends_on_itself(net)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_of_the_old_kind() -> None:
    net = Net().eval()
    torch.nn.utils.weight_norm(net.block.conv)
    copied = copy_model(net, share=True)
    assert torch.equal(copied(images()), net(images()))
    gain = dict(net.named_parameters())["block.conv.weight_g"]
    copied.get_submodule("block.conv").register_parameter("weight_g", nn.Parameter(gain * 2))
    assert not torch.equal(copied(images()), net(images()))


def test_locks_are_new_ones() -> None:
    net: Any = Net()
    net.lock, net.again, net.inside = threading.Lock(), threading.RLock(), {"a": [threading.Lock()]}
    net.event = threading.Event()
    net.lock.acquire()
    copied: Any = copy_model(net, share=True)
    assert copied.lock is not net.lock
    assert copied.lock.acquire(blocking=False)
    assert type(copied.again) is type(net.again)
    assert not copied.inside["a"][0].locked()


def test_what_cannot_be_copied_is_refused_by_name() -> None:
    net: Any = Net()
    net.block.stream = (i for i in range(3))
    with pytest.raises(BadConfigError, match="the module 'block' keeps 'stream', a generator that cannot be copied"):
        copy_model(net)
    with pytest.raises(BadConfigError, match="weight has no shape yet; give the model one batch"):
        copy_model(nn.Sequential(nn.LazyLinear(3)))
