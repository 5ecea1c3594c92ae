"""Tracing that leaves other threads alone."""

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

_ONE_AT_A_TIME = threading.Lock()
"""Traces that overlap would restore each other's patches of `nn.Module`, and leave it patched."""


def trace(model: nn.Module, *, is_leaf: Callable[[nn.Module], bool] = lambda _: False) -> fx.Graph:
    """Traces `model` with torch.fx while other threads may run any models.

    `is_leaf` names modules to take as one step beside those of torch itself. Raises whatever the model's own code raises
    when it is run on stand-ins for tensors.
    """
    with _ONE_AT_A_TIME:
        return _Tracer(is_leaf).trace(model)


class _Tracer(fx.Tracer):
    """For the time of a trace torch.fx patches the call of every module in the process; only our thread is traced."""

    def __init__(self, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_leaf, self._thread = is_leaf, threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
