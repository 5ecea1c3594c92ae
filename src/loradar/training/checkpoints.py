"""A training run frozen in one safetensors file, so that a killed run goes on and ends with the same bits.

The data order and the augmentation are functions of the seed and the step, so there is no generator to keep: the
tensors that move, the optimiser and the schedule are the whole state.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from loradar.core.digests import DIGEST, digest_of, metadata_of
from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import parse_object, read_regular, sha256, write_atomically


def save_checkpoint(
    path: Path, *, step: int, state: Mapping[str, Tensor], optimizer: Optimizer, scheduler: LRScheduler, run: str
) -> None:
    """Writes the run after `step` steps. `run` says which run this is: settings that must not differ on resuming."""
    frozen = optimizer.state_dict()
    tensors = {f"state.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    for index, slots in frozen["state"].items():
        for key, value in slots.items():
            if value is not None:
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    # a shared storage would be refused by safetensors: each tensor is written from its own memory
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    notes = {"step": step, "run": run, "groups": frozen["param_groups"], "scheduler": _plain(scheduler.state_dict())}
    notes["sha256"] = sha256(safetensors.torch.save(tensors))
    notes[DIGEST] = digest_of(notes)
    write_atomically(path, safetensors.torch.save(tensors, {"loradar": json.dumps(notes)}))


def load_checkpoint(
    path: Path, *, state: Mapping[str, Tensor], optimizer: Optimizer, scheduler: LRScheduler, run: str
) -> int:
    """Puts everything back in place and returns how many steps were done.

    Raises BadFileError where the file is damaged, BadConfigError where it belongs to a run with other settings.
    """
    try:
        data = read_regular(path)
        tensors = safetensors.torch.load(data)
        notes = parse_object(metadata_of(data)["loradar"])
        if notes.get(DIGEST) != digest_of(notes) or notes["sha256"] != sha256(safetensors.torch.save(tensors)):
            raise ValueError("it was changed since it was saved: its digest is another")
        if notes["run"] != run:
            raise BadConfigError(
                f"{path} belongs to an unfinished run with other settings; give those to go on with it, choose another "
                "--out, or delete that file to begin anew"
            )
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                slots.setdefault(int(index), {})[key] = tensor
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(tensors[f"state.{name}"])
        optimizer.load_state_dict({"state": slots, "param_groups": notes["groups"]})
        scheduler.load_state_dict(notes["scheduler"])
        return int(notes["step"])
    except (BadConfigError, torch.OutOfMemoryError):
        raise
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadFileError(f"{path} is no checkpoint that can be read ({reason}); delete it to start afresh") from error


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What of a schedule's state is data; its functions are made anew by its constructor."""
    return {k: v for k, v in values.items() if isinstance(v, int | float | str | list | tuple | type(None))}
