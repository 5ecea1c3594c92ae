"""Tracing: the same graph as torch.fx, and other threads do not notice."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from loradar.core.tracing import trace


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    )


class Slow(nn.Module):
    """Takes its time in the middle of its forward."""

    def __init__(self, begun: threading.Event, may_end: threading.Event) -> None:
        super().__init__()
        self.linear, self.begun, self.may_end = nn.Linear(2, 2), begun, may_end
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        self.begun.set()
        assert self.may_end.wait(10)
        return x * self.scale


def test_the_graph_is_that_of_torch_fx() -> None:
    one = model()
    assert str(trace(one)) == str(fx.Tracer().trace(one))
    whole = trace(one, is_leaf=lambda module: isinstance(module, nn.Sequential))
    assert [node.target for node in whole.nodes if node.op == "call_module"] == ["0", "1", "2", "3"]


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_other_threads_run_while_one_is_traced() -> None:
    begun, may_end = threading.Event(), threading.Event()
    graphs: list[fx.Graph] = []
    slow, other, x = Slow(begun, may_end), model().eval(), torch.rand(2, 3, 5, 5)
    expected = other(x)
    thread, errors = in_thread(lambda: graphs.append(trace(slow)))
    assert begun.wait(10)
    assert torch.equal(other(x), expected)
    # a parameter is read as itself, no stand-in for it
    assert type(slow.scale) is nn.Parameter
    may_end.set()
    thread.join()
    assert errors == []
    assert [node.name for node in graphs[0].nodes] == ["x", "linear", "scale", "mul", "output"]


def test_traces_that_overlap_leave_modules_as_they_were() -> None:
    before = nn.Module.__call__
    events = [(threading.Event(), threading.Event()) for _ in range(2)]
    first, errors = in_thread(lambda: trace(Slow(*events[0])))
    assert events[0][0].wait(10)
    second, others = in_thread(lambda: trace(Slow(*events[1])))
    events[1][0].wait(0.2)  # in vain, unless both are traced at once
    events[0][1].set()
    first.join()
    events[1][1].set()
    second.join()
    assert errors == others == []
    assert nn.Module.__call__ is before


def test_what_a_model_raises_comes_through_and_nothing_stays() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(fx.proxy.TraceError):
        trace(Fails())
    assert trace(model()).nodes
