"""Reading a file of weights without running anybody's code, and putting them into a model strictly."""

import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from loradar.core.errors import BadFileError
from loradar.core.files import read_regular, sha256

_NESTS = ("state_dict", "model_state_dict", "model")


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a `.safetensors`, `.pt` or `.pth` file by name, and the sha256 of the file.

    A pickle is read with `weights_only=True`; one that would run code is refused. A state kept under `state_dict` or
    `model` is found, and the `module.` of DataParallel taken off. Raises BadFileError.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise BadFileError(f"could not read {path}: {error.strerror or error}") from error
    digest = sha256(data)
    if path.suffix != ".safetensors":
        return _from_pickle(path), digest
    try:
        return load(data), digest
    except SafetensorError as error:
        raise BadFileError(f"{path} is no whole safetensors file ({error}); fetch it again") from error


def _from_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # of a pickle that torch did not write it warns that it may fail; if it does, we say so
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadFileError(
            f"{path} holds more than tensors, and opening it would run code from the file; expected a plain state_dict "
            "(save one with torch.save(model.state_dict(), path), or as safetensors)"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise BadFileError(f"{path} is no whole PyTorch file; expected a state_dict written by torch.save") from error
    for nest in _NESTS:
        if isinstance(state, Mapping) and isinstance(state.get(nest), Mapping):
            state = state[nest]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise BadFileError(f"{path} holds no state_dict; expected tensors by name, as model.state_dict() gives them")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def with_own_head(
    module: nn.Module, weights: Mapping[str, Tensor], *, head: Sequence[str] = ()
) -> tuple[dict[str, Tensor], int | None]:
    """Returns `weights` with the head of `module` where theirs is for another number of classes, and that number.

    All tensors of a head differ in their first dimension alone, from one number to another. A head that `weights` lack
    altogether is `module`'s own too where all that is missing are the layers `head`; the number is then 0. It is None, and
    the weights as they are, where nothing or something else differs.
    """
    own = module.state_dict()
    odd = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    sizes = {(weights[name].shape[:1], own[name].shape[:1]) for name in odd}
    alike = all(weights[name].ndim and weights[name].shape[1:] == own[name].shape[1:] for name in odd)
    missing = [name for name in own if name not in weights]
    if odd and not missing and alike and len(sizes) == 1:
        return {**weights, **{name: own[name] for name in odd}}, len(weights[odd[0]])
    if missing and not odd and head and {name.rpartition(".")[0] for name in missing} == set(head):
        return {**weights, **{name: own[name] for name in missing}}, 0
    return dict(weights), None


def fresh_head(classes: int | None, seed: int) -> dict[str, str]:
    """Returns the note that says of a fresh head what the weights had instead; nothing for None, their own head."""
    if classes is None:
        return {}
    had = f"the weights have {classes} classes" if classes else "the weights have none"
    return {"head": f"fresh, seed {seed}: {had}"}


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies `weights` into `model`, every name and shape exactly as the model has them.

    Raises BadFileError that says, in one line, what is missing, what is too much, what differs in shape or is not finite.
    """
    own = model.state_dict()
    shapes = (
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    )
    infinite = (name for name, w in weights.items() if w.is_floating_point() and not bool(torch.isfinite(w).all()))
    problems = [
        _some("missing", (name for name in own if name not in weights)),
        _some("unexpected", (name for name in weights if name not in own)),
        _some("of another shape", shapes),
        _some("NaN or infinite", infinite),
    ]
    if any(problems):
        raise BadFileError(f"{source} does not fit the architecture: {'; '.join(p for p in problems if p)}")
    model.load_state_dict(dict(weights))


def _some(what: str, names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{what}: {', '.join(found[:3])}{more}" if found else ""
