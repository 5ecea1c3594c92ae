"""A base in a folder: `config.json` (architecture, normalisation, classes, notes) and `model.safetensors`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import check_place, folder_atomically, parse_object, read_regular, sha256, write_atomically
from loradar.core.modules import unwrap
from loradar.core.names import BASE_CONFIG, BASE_WEIGHTS
from loradar.models.backbones import build, canonical
from loradar.models.base import Base, make_base
from loradar.models.stages import MultiStageFeatures
from loradar.models.weights import put_weights, read_weights

_STEMS = {"3x3": "-cifar", "7x7": ""}


def load_folder(folder: Path) -> Base:
    """The base that `folder` holds; half-precision weights become float32.

    Raises BadFileError for a config that is incomplete, and for weights that do not fit it or its sha256.
    """
    config = _read_config(folder / BASE_CONFIG)
    weights, digest = read_weights(folder / BASE_WEIGHTS)
    if config.get("sha256", digest) != digest:
        raise BadFileError(
            f"{folder / BASE_WEIGHTS} has sha256 {digest[:12]}, but {BASE_CONFIG} says {str(config['sha256'])[:12]}: it was "
            "changed or not copied whole; fetch it again"
        )
    try:
        architecture = canonical(f"{config['architecture']}{_STEMS[config.get('stem', '7x7')]}")
        module = build(architecture, num_classes=config["num_classes"], **config.get("options", {}))
        put_weights(module, weights, str(folder / BASE_WEIGHTS))
        return make_base(
            module,
            architecture=architecture,
            num_classes=config["num_classes"],
            input_size=config.get("input_size"),
            mean=config.get("mean"),
            std=config.get("std"),
            classes=config.get("classes"),
            options=config.get("options"),
            notes={**_notes(config), "spec": str(folder), "sha256": digest},
        )
    except BadFileError:
        raise
    except KeyError as error:
        raise BadFileError(f"{folder / BASE_CONFIG}: {error.args[0]!r} is missing or unknown") from error
    except (BadConfigError, TypeError, ValueError) as error:
        raise BadFileError(f"{folder / BASE_CONFIG}: {error}") from error


def save_base(folder: Path | str, base: Base, *, dtype: torch.dtype = torch.float32) -> Path:
    """Writes `base` to `folder`, all or nothing, in the format that `load_base` reads. Returns the folder.

    float32 keeps every bit; float16 halves the file. Raises BadFileError where the disk refuses or `folder` holds
    something else than a base, BadConfigError where the base has no known architecture.
    """
    if "architecture" not in base.description:
        raise BadConfigError("the base has no known architecture, so no folder could be opened again; see new_base")
    if isinstance(unwrap(base.model), MultiStageFeatures):
        raise BadConfigError(
            "a base of several stages is made when it is opened; save the base below, open stages:FOLDER"
        )
    check_place(Path(folder), BASE_CONFIG, "a base")
    state = unwrap(base.model).state_dict()
    cast = {n: (t.to(dtype) if t.is_floating_point() else t).cpu().contiguous() for n, t in state.items()}
    data = save(cast, metadata={"format": "pt"})
    kept = {key: value for key, value in base.description.items() if key not in ("spec", "sha256")}
    config = _with_stem(kept) | {"dtype": str(dtype).removeprefix("torch."), "sha256": sha256(data)}
    with folder_atomically(Path(folder)) as fresh:
        write_atomically(fresh / BASE_WEIGHTS, data)
        write_atomically(fresh / BASE_CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    return Path(folder)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return parse_object(read_regular(path))
    except OSError as error:
        raise BadFileError(
            f"could not read {path}: {error.strerror}; expected a base: {BASE_CONFIG}, {BASE_WEIGHTS}"
        ) from error
    except ValueError as error:
        raise BadFileError(f"{path} is not JSON of a base ({error}); fetch it again") from error


def _notes(config: dict[str, Any]) -> dict[str, Any]:
    taken = ("architecture", "stem", "num_classes", "input_size", "mean", "std", "classes", "options", "dtype")
    return {key: value for key, value in config.items() if key not in taken}


def _with_stem(description: dict[str, Any]) -> dict[str, Any]:
    name = str(description["architecture"])
    if name.endswith(_STEMS["3x3"]):
        return description | {"architecture": name.removesuffix(_STEMS["3x3"]), "stem": "3x3"}
    return description
