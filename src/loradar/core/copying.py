"""Copies of models that others wrote. What a copy computes must not come from the original, or it is refused by name."""

import contextlib
import copy
import functools
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from loradar.core.errors import BadConfigError

M = TypeVar("M", bound=nn.Module)

_LOCKS = (type(threading.Lock()), type(threading.RLock()))
# deepcopy hands these on as they are, with whatever they are bound to
_FUNCTIONS = (FunctionType, functools._lru_cache_wrapper, weakref.ref)
# without effect on what a module computes; torch leaves the compiled call out of its copies
_HARMLESS = {"_compiled_call_impl", "extra_repr", "_state_dict_hooks", "_state_dict_pre_hooks"}
_HARMLESS |= {"_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_parameters", "_buffers", "_modules"}
# kept by torch's recurrent layers, whose copies make their own
_HARMLESS |= {"_flat_weight_refs"}
_SIMPLE = (str, bytes, int, float, type, type(None))


def copy_model(model: M, *, share: bool = False) -> M:
    """Returns a deep copy of `model`, which computes with its own modules alone.

    With `share` it has the parameters of `model` as frozen views (no gradient reaches the original) and copies of its
    buffers. Bound methods and partials are bound to the copy. Activations that a module keeps are copied without their
    graph, and locks are new ones. Raises BadConfigError, by the module's name, for a function that would go on calling
    the original, and for what cannot be copied.
    """
    memo: dict[int, object] = {}
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise BadConfigError(f"{name} has no shape yet; give the model one batch of images first")
        if share:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        if not buffer.is_leaf:
            memo[id(buffer)] = buffer.detach().clone()
    own = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _HARMLESS and not isinstance(value, _SIMPLE) and not _is_empty(value):
                _prepare(name, module, attribute, value, own, memo)
    kept = dict(memo)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # whatever the copying of a user's object raises
        raise BadConfigError(_culprit(model, kept, error)) from error
    for name, module in copied.named_modules():
        if id(module) in own:
            raise BadConfigError(
                f"{_called(name)} gives itself as its copy; its __deepcopy__ must return another module"
            )
    return copied


def _prepare(
    name: str, module: nn.Module, attribute: str, value: object, own: set[int], memo: dict[int, object]
) -> None:
    """Checks the functions that `value` holds, and enters into the memo what deepcopy cannot copy by itself."""
    for part in _parts(value, own):
        if isinstance(part, _LOCKS):
            memo[id(part)] = type(part)() if isinstance(part, _LOCKS[1]) else threading.Lock()
        elif isinstance(part, ModuleType):
            memo[id(part)] = part
        elif isinstance(part, Tensor) and not part.is_leaf:
            memo[id(part)] = part.detach().clone()
        elif isinstance(part, _FUNCTIONS):
            shadows = part is value and callable(getattr(type(module), attribute, None))
            if shadows or _reaches(part, own):
                raise BadConfigError(
                    f"{_called(name)} keeps a function as {attribute!r} that a copy could not make its own (a decorator's, "
                    "torch.compile's or a closure), so the copy would call the original; make it a method of the class, or "
                    "give the model from before it was wrapped"
                )


def _is_empty(value: object) -> bool:
    return type(value) in (dict, OrderedDict, list, tuple, set) and not value


def _parts(value: object, own: set[int]) -> Iterator[object]:
    """`value` and what it holds, but for the model's own modules, parameters and buffers."""
    seen: set[int] = set()
    left = [value]
    while left:
        part = left.pop()
        if id(part) in seen or id(part) in own or isinstance(part, _SIMPLE):
            continue
        seen.add(id(part))
        yield part
        left.extend(_held(part))


def _held(part: object) -> Iterable[object]:
    if isinstance(part, dict):
        return [*part.keys(), *part.values(), *_attributes(part)]
    if isinstance(part, list | tuple | set | frozenset | deque):
        return [*part, *_attributes(part)]
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, MethodType):
        return [part.__func__, part.__self__]
    if isinstance(part, (*_FUNCTIONS, Tensor, ModuleType)):
        return []
    return _attributes(part)


def _attributes(part: object) -> list[object]:
    """The values in the `__dict__` and the slots of an object."""
    held = list(getattr(part, "__dict__", {}).values())
    for kind in type(part).__mro__:
        for slot in vars(kind).values():
            # slots by their descriptors: nothing of the user's is called
            if isinstance(slot, MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # a slot that was never filled
                    held.append(slot.__get__(part))
    return held


def _reaches(function: Any, own: set[int]) -> bool:
    """Whether a function holds a part of the model: in its closure, its defaults, or what it wraps."""
    seen: set[int] = set()
    left: list[Any] = [function]
    while left:
        part = left.pop()
        if id(part) in own:
            return True
        if id(part) in seen or isinstance(part, _SIMPLE):
            continue
        seen.add(id(part))
        if isinstance(part, weakref.ref):
            left.append(part())
        elif isinstance(part, _FUNCTIONS):
            left += [getattr(part, "__defaults__", None), getattr(part, "__kwdefaults__", None), *vars(part).values()]
            left += [cell.cell_contents for cell in getattr(part, "__closure__", None) or () if _is_full(cell)]
        else:
            left += _held(part)
    return False


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # asking is what raises
    except ValueError:
        return False
    return True


def _culprit(model: nn.Module, memo: dict[int, object], error: Exception) -> str:
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception as own:
                return (
                    f"{_called(name)} keeps {attribute!r}, a {type(value).__name__} that cannot be copied ({_line(own)}); "
                    "take it off the module first"
                )
    return f"{type(model).__name__} cannot be copied: {_line(error)}"


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _called(name: str) -> str:
    return f"the module {name!r}" if name else "the model"
