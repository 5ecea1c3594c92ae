"""Whether changes reach the answers: looked at once, at the first batch in eval mode, by following every operation."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loradar.adapters.adapter import Adapter
from loradar.adapters.layers import weight_name, weight_of
from loradar.core.errors import BadTargetError
from loradar.core.modules import unseen, unwrap

_PASSED: WeakKeyDictionary[nn.Module, set[object]] = WeakKeyDictionary()
"""What was looked at and found good, of each base: targets and how they are computed."""
_LOOKING = threading.RLock()


def watch(model: nn.Module, base: nn.Module, adapter: Adapter, beside: Sequence[str] | None = None) -> None:
    """Has the first batch in eval mode looked at, of a `model` that was made of `base` and `adapter`.

    `beside` are the layers whose delta is computed beside them; None says that the weights are merged. That forward pass
    raises BadTargetError, by the layers' names, where an answer comes by no change at all (the model computes elsewhere
    than in its own modules), uses the base's weight of a changed layer (which something else keeps), or uses a weight
    without calling its layer, which loses the delta beside it. A layer that takes no part in the answers is no loss.
    """
    source = unwrap(base)
    originals = {name: weight_of(source, name).detach() for name in adapter.deltas}
    originals |= {name: _tensor(source, name).detach() for name in adapter.modules_to_save}
    if originals:
        wiring = tuple((id(m), id(type(m)), id(vars(m).get("forward")), len(vars(m))) for m in base.modules())
        key = (tuple(originals), None if beside is None else tuple(beside), wiring)
        factors = {n: [*d.tensors.values(), *(d.init_factors or ())] for n, d in adapter.deltas.items()}
        deltas = {} if beside is None else factors
        # a merged model without its head is one of features, which a head has no part in
        needed = bool(adapter.deltas) or beside is not None
        look = _FirstBatch(
            adapter.card.name, originals, deltas, beside or (), needed, _PASSED.setdefault(base, set()), key
        )
        model.register_forward_pre_hook(look)


class _FirstBatch:
    def __init__(
        self,
        adapter: str,
        originals: dict[str, Tensor],
        deltas: Mapping[str, list[Tensor]],
        beside: Sequence[str],
        needed: bool,
        passed: set[object],
        key: object,
    ) -> None:
        self.adapter, self.originals, self.deltas, self.beside = adapter, originals, deltas, beside
        self.needed, self.passed, self.key, self.is_busy = needed, passed, key, False

    def __call__(self, model: nn.Module, args: tuple[object, ...]) -> None:
        if model.training or not args or not isinstance(args[0], Tensor) or not args[0].numel():
            return
        # a tracer would keep the look as a part of the model
        tracing = torch.jit.is_tracing() or torch._C._functorch.peek_interpreter_stack()  # type: ignore[no-untyped-call, attr-defined]
        if tracing or torch.compiler.is_compiling():
            return
        with _LOOKING:
            if self.is_busy:  # this is the look itself
                return
            if self.key not in self.passed:
                self.is_busy = True
                try:
                    self._look(model, args)
                finally:
                    self.is_busy = False
                self.passed.add(self.key)
            for number, hook in list(model._forward_pre_hooks.items()):
                if hook is self:
                    del model._forward_pre_hooks[number]

    def _look(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        backbone = unwrap(model)
        # layers may be gone since: a head that was taken off, a normalisation that went into its convolution
        changed = {n: self.deltas.get(n) or _found(backbone, n) for n in self.originals}
        changed = {name: tensors for name, tensors in changed.items() if tensors}
        if not changed:
            return
        one = tuple(value[:1] if isinstance(value, Tensor) and value.ndim else value for value in args)
        cached = torch.is_autocast_cache_enabled()
        with ExitStack() as stack:
            own = stack.enter_context(_swapped(model, backbone, [n for n in self.deltas if _found(backbone, n)]))
            stack.enter_context(torch.random.fork_rng([args[0].device] if args[0].is_cuda else []))
            stack.enter_context(torch.no_grad())
            stack.enter_context(unseen())
            torch.set_autocast_cache_enabled(False)  # what is cached comes from no weight that this pass sees
            stack.callback(torch.set_autocast_cache_enabled, cached)
            beside = {name: own[name] for name in self.beside if name in own}
            flow = _Flow(changed, self.originals, beside, [*_tensors(model), *args])
            for name in beside:
                flow.mark(stack, name, backbone.get_submodule(name))
            try:
                reached, lost = flow.follow(lambda: model(*one))
            except Exception:  # a model may need the whole batch; what fails then fails without a look, too
                reached, lost = flow.follow(lambda: model(*args))
        self._judge(type(backbone).__name__, reached, lost)

    def _judge(self, kind: str, reached: list[str], lost: list[str]) -> None:
        if not reached and (lost or self.needed):
            raise BadTargetError(
                f"the forward pass of {kind} comes by nothing that adapter {self.adapter!r} changes: it computes elsewhere "
                "than in its own modules (a function, a weight or a model kept outside of them); give the module that computes"
            )
        if lost:
            first = lost[0].removesuffix(".weight")
            raise BadTargetError(
                f"the forward pass of {kind} uses the weight of {first} without calling the layer, or one that was kept "
                f"elsewhere, so what adapter {self.adapter!r} changes there is lost; leave {', '.join(lost[:3])} out of the "
                "target_modules"
            )


def _found(backbone: nn.Module, name: str) -> list[Tensor]:
    try:
        return [_tensor(backbone, name)]
    except AttributeError:
        return []


def _tensor(backbone: nn.Module, name: str) -> Tensor:
    """A tensor by its own name, or the weight of a layer by the layer's."""
    layer, _, leaf = name.rpartition(".")
    module = backbone.get_submodule(layer)
    found = getattr(module, leaf)
    if isinstance(found, nn.Module):
        found = getattr(found, weight_name(found))
    tensor: Tensor = found
    return tensor


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@contextmanager
def _swapped(model: nn.Module, backbone: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Puts copies in the place of the weights of `layers` and of all buffers, for one pass. Gives the copies by layer."""
    weights = {name: _raw_weight(backbone.get_submodule(name)) for name in layers}
    copies = {id(weight): nn.Parameter(weight.detach().clone(), requires_grad=False) for weight in weights.values()}
    saved: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in tables:
                for leaf, tensor in held.items():
                    if tensor is not None and (id(tensor) in copies or held is module._buffers):
                        saved.append((held, leaf, tensor))
                        # a model may count its passes in a buffer
                        held[leaf] = copies[id(tensor)] if id(tensor) in copies else tensor.detach().clone()
        yield {name: copies[id(weight)] for name, weight in weights.items()}
    finally:
        for held, leaf, tensor in saved:
            held[leaf] = tensor


def _raw_weight(module: nn.Module) -> Tensor:
    held = getattr(module, "parametrizations", None)
    owner, leaf = (module, weight_name(module)) if held is None else (held[weight_name(module)], "original")
    weight: Tensor = getattr(owner, leaf)
    return weight


class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what depends on what through one pass, by the memory of tensors; gradients or their lack do not matter.

    Each name has two bits: of its change, and of its original, wherever else than in the layer's own call it is used.
    A tensor from outside of the pass and of the model is taken for an original where it holds the same values.
    """

    def __init__(
        self,
        changed: Mapping[str, list[Tensor]],
        originals: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        known: Sequence[object],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = list(changed)
        self._bits: dict[int, int] = {}
        self._kept: list[object] = []  # or else their memory would be used for others
        self._known = {_place(value) for value in known if isinstance(value, Tensor)}
        self._originals = {2 << 2 * i: originals[name] for i, name in enumerate(self._names)}
        self._own = {_place(tensor): name for name, tensor in own.items()}
        self._within: set[str] = set()
        for i, name in enumerate(self._names):
            for tensor in changed[name]:
                self._bits[_place(tensor)] = self._bits.get(_place(tensor), 0) | 1 << 2 * i

    def mark(self, stack: ExitStack, name: str, module: nn.Module) -> None:
        """Notes, as long as `stack` is open, when this thread is within the call of `module`."""
        thread = threading.get_ident()

        def note(do: Callable[[str], None]) -> Callable[..., None]:
            return lambda *_: do(name) if threading.get_ident() == thread else None

        for handle in (
            module.register_forward_pre_hook(note(self._within.add)),
            module.register_forward_hook(note(self._within.discard)),
        ):
            stack.callback(handle.remove)

    def follow(self, run: Callable[[], object]) -> tuple[list[str], list[str]]:
        """The names whose change reaches what `run` returns, and those whose original does."""
        with self:
            output = run()
        bits = self._of(tree_leaves(output if isinstance(output, Tensor | tuple | list | dict) else vars(output)))
        return tuple([n for i, n in enumerate(self._names) if bits >> 2 * i + part & 1] for part in (0, 1))  # type: ignore[return-value]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        bits = self._of(tree_leaves((args, kwargs)))
        out = func(*args, **kwargs or {})
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                place = _place(value)
                self._known.add(place)
                if bits:
                    self._bits[place] = self._bits.get(place, 0) | bits
                    self._kept.append(value)
        return out

    def _of(self, values: list[object]) -> int:
        bits = 0
        for value in values:
            if isinstance(value, Tensor):
                place = _place(value)
                if place not in self._known and place not in self._bits:
                    self._bits[place] = self._stray(value)
                    self._kept.append(value)
                bits |= self._bits.get(place, 0)
                name = self._own.get(place)
                if name is not None and name not in self._within:
                    bits |= 2 << 2 * self._names.index(name)
        return bits

    def _stray(self, value: Tensor) -> int:
        """The bits of the originals that a tensor from elsewhere holds the values of, in whatever order."""
        bits = 0
        for bit, original in self._originals.items():
            if value.numel() == original.numel() > 1 and value.device == original.device and not value.is_sparse:
                ours, theirs = (t.detach().flatten().double().sort().values for t in (original, value))
                if torch.equal(ours, theirs) and bool(ours[0] != ours[-1]):
                    bits |= bit
        return bits


def _place(tensor: Tensor) -> int:
    """The same number for all tensors of one memory."""
    try:
        return tensor.untyped_storage().data_ptr() or -id(tensor)
    except (NotImplementedError, RuntimeError):  # sparse ones and those of other libraries have none
        return -id(tensor)
