"""What is asked of somebody else's model: its innermost backbone, its mode for a moment, one layer's output."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from loradar.core.errors import BadTargetError, did_you_mean


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own backbone, below our wrappers (a wrapper keeps what it wraps as `wrapped`).

    Names of layers, in adapters and in attacks, are relative to it.
    """
    while isinstance(inner := getattr(model, "wrapped", None), nn.Module):
        model = inner
    return model


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The submodule `name` of the innermost backbone. Raises BadTargetError with the near misses."""
    modules: dict[str, nn.Module] = dict(unwrap(model).named_modules())
    if name not in modules or not name:
        raise BadTargetError(f"the model has no layer {name!r}; {did_you_mean(name, [n for n in modules if n])}")
    return modules[name]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode (no dropout, no moving statistics) for the time of the block, then as it was."""
    trained = [m for m in model.modules() if m.training]
    try:
        for module in trained:
            module.training = False
        yield
    finally:
        for module in trained:
            module.training = True


class _Output:
    value: Tensor


@contextmanager
def capture(model: nn.Module, layer: str) -> Iterator[_Output]:
    """The output of `layer`, at its first call within the block, as `.value`.

    Raises BadTargetError for a layer that does not exist.
    """
    output = _Output()

    def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
        if not hasattr(output, "value"):
            output.value = out

    handle = find_layer(model, layer).register_forward_hook(keep)
    try:
        yield output
    finally:
        handle.remove()


class _Reached(Exception):  # noqa: N818  # nothing went wrong
    """Carries the output of a layer out of the forward pass, which is then over."""

    def __init__(self, out: object) -> None:
        super().__init__()
        self.out = out


def output_of(model: nn.Module, layer: str, x: Tensor) -> object:
    """What `layer` gives at its first call when `model` is asked for `x`; the layers behind it are not computed.

    None where the forward pass does not come by. Raises BadTargetError for a layer that does not exist.
    """

    def leave(_module: nn.Module, _args: object, out: object) -> None:
        raise _Reached(out)

    handle = find_layer(model, layer).register_forward_hook(leave)
    try:
        model(x)
    except _Reached as reached:
        return reached.out
    finally:
        handle.remove()
    return None
