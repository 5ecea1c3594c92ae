"""The commands on a device that is none: tensors say that they lie on `pretend:0`, are computed on the processor, and are
refused beside others, as a GPU's are.

    python -m tests.pretend FOLDER [COMMAND ...]

runs commands of `tests.faults.works` once on the processor and once on that device, and prints a line of JSON for each: how
many convolutions and products of matrices ran there and how many `here`, and whether both wrote the same tensors.
"""

import json
import multiprocessing
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from loradar.models import opening
from tests.faults.works import COMMANDS, WORKS

MIXES = {
    "aten::copy_",
    "aten::_to_copy",
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
}
"""What takes tensors of several devices on a GPU too: copies, and indices that lie on the processor."""
HEAVY = {"aten::convolution", "aten::mm", "aten::addmm", "aten::bmm"}
DEVICE = torch.device("privateuseone", 0)
"""Called `pretend` once it is known."""


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device's module."""

    def get_rng_state(self, _device: object = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class There(Tensor):
    """A tensor that lies on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "There":
        layout: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=DEVICE, **layout)
        made.held = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"There({self.held!r})"


class Pretended(TorchDispatchMode):
    """While it is entered, the device is what every command takes; counts what computes there, and what on the processor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> "Pretended":
        vars(opening)["torch"] = _Torch()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *found: Any) -> None:
        vars(opening)["torch"] = torch
        super().__exit__(*found)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in HEAVY:
            self.counts["there" if isinstance(args[1], There) else "here"] += 1
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, device = func._schema.name, kwargs.get("device")
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    there = [one for one in tensors if isinstance(one, There)]
    if there and name not in MIXES and any(one.dim() for one in tensors if not isinstance(one, There)):
        raise RuntimeError(f"{name}: some tensors lie on the processor and others on {DEVICE}")
    args, kwargs = tree_map(lambda one: one.held if isinstance(one, There) else one, (args, kwargs))
    goes_there = bool(there)
    if device is not None:
        goes_there = torch.device(device).type == DEVICE.type
        kwargs["device"] = torch.device("cpu")
    own = {id(one.held): one for one in there}

    def found(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return own[id(one)] if id(one) in own else There(one) if goes_there else one

    return tree_map(found, func(*args, **kwargs))


class _Torch:
    """torch for `pick_device`, whatever device it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return (lambda _: DEVICE) if name == "device" else getattr(torch, name)


def pretend() -> None:
    """Makes the device known for the rest of the process, which has not differentiated anything yet."""
    backend_registration._setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) moves what it has made
    # tensors of inference mode cannot be wrapped; without gradients is the same to what computes
    torch.inference_mode.__enter__ = _enter  # type: ignore[method-assign]
    torch.inference_mode.__exit__ = _leave  # type: ignore[method-assign]


def _enter(self: Any) -> None:
    self.was = torch.is_grad_enabled()
    torch.set_grad_enabled(self.was and not self.mode)


def _leave(self: Any, *_: object) -> None:
    torch.set_grad_enabled(self.was)


def _tensors(folder: Path) -> dict[str, bytes]:
    """Every file of tensors below it: adapters, bases, attacked images."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*.safetensors"))}


def here(folder: Path, names: list[str]) -> None:
    """Makes what the commands start from, and runs them on the processor."""
    torch.set_num_threads(1)
    WORKS["inputs"](folder / "inputs")
    for name in names:
        COMMANDS[name](folder / "inputs", folder / "here" / name)


def main(folder: Path, names: list[str]) -> None:
    """Runs the commands `names`, all if there are none; a process that has differentiated knows no new device."""
    torch.set_num_threads(1)
    names = names or list(COMMANDS)
    process = multiprocessing.get_context("spawn").Process(target=here, args=(folder, names))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the commands failed on the processor already")
    pretend()
    for name in names:
        with Pretended() as mode:
            COMMANDS[name](folder / "inputs", folder / "there" / name)
        files = _tensors(folder / "there" / name)
        same = files == _tensors(folder / "here" / name)
        print(json.dumps({"command": name, **mode.counts, "files": len(files), "same": same}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
