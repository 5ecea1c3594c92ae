"""Writes merged weights by their names: a state dict with JSON beside it, timm's folder; and an adapter as PEFT reads it."""

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from loradar.adapters import Adapter, save
from loradar.adapters.peft_format import UNREADABLE
from loradar.core.errors import BadConfigError
from loradar.core.files import check_place, folder_atomically, write_atomically
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_CONFIG, BASE_CONFIG, BASE_WEIGHTS
from loradar.core.types import Images
from loradar.exporting import Comparison, compare
from loradar.models import Base, Normalized, build

_PREPROCESSING = "preprocessing.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """A base and, if there is one, its adapter; `model` is both merged."""

    base: Base
    model: nn.Module
    adapter: Adapter | None

    def state(self) -> dict[str, Tensor]:
        """The tensors by the names that the architecture gives them."""
        state = unwrap(self.model).state_dict()
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}

    def facts(self) -> dict[str, Any]:
        """What a reader must know besides: the architecture with its options, normalisation, size and classes."""
        described = self.base.description
        if "architecture" not in described:
            raise BadConfigError("the base has no known architecture, so its weights alone say nothing; export to onnx")
        classes = (self.adapter.card.classes if self.adapter else ()) or self.base.classes
        return {
            "architecture": described["architecture"],
            "options": described.get("options", {}),
            "num_classes": len(classes) if classes else self.base.num_classes,
            "classes": list(classes) if classes else None,
            "input_size": list(self.base.input_size),
            "mean": described["mean"],
            "std": described["std"],
            "input": "RGB in [0, 1], then (x - mean) / std",
        }


def write_state_dict(weights: Weights, path: Path, x: Images) -> Comparison:
    """Writes `path`, safetensors, and JSON beside it; compared on `x`. Raises BadConfigError."""
    facts, state = weights.facts(), weights.state()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_bytes(to_bytes(state, metadata={"format": "pt"}))
        module = build(facts["architecture"], num_classes=facts["num_classes"], **facts["options"])
        found = compare(weights.model, _read(module, load_file(file), facts), x, path)
        write_atomically(path.with_suffix(".json"), _text(facts).encode())
        write_atomically(path, file.read_bytes())
    return found


def write_timm(weights: Weights, folder: Path, x: Images) -> Comparison:
    """Writes a folder as timm does for the hub, which `local-dir:` reads; compared on `x`. Raises BadConfigError."""
    import timm

    facts, state = weights.facts(), weights.state()
    family, _, name = facts["architecture"].partition(":")
    if family != "timm":
        raise BadConfigError(f"the base is {facts['architecture']}, which timm does not have; export to state-dict")
    cfg = {key: facts[key] for key in ("num_classes", "input_size", "mean", "std")}
    config = {
        "architecture": name.partition(".")[0],
        "num_classes": facts["num_classes"],
        "model_args": facts["options"],
        # what is built for one size is to be built for it again, which other models have no word for
        "pretrained_cfg": cfg | {"fixed_input_size": "img_size" in facts["options"]},
        **({"label_names": facts["classes"]} if facts["classes"] else {}),
    }
    check_place(folder, _PREPROCESSING, "an earlier export")
    with folder_atomically(folder) as fresh:
        (fresh / BASE_WEIGHTS).write_bytes(to_bytes(state, metadata={"format": "pt"}))
        (fresh / BASE_CONFIG).write_text(_text(config), encoding="utf-8")
        (fresh / _PREPROCESSING).write_text(_text(facts), encoding="utf-8")
        module = timm.create_model(config["architecture"], num_classes=facts["num_classes"], **facts["options"])
        return compare(weights.model, _read(module, load_file(fresh / BASE_WEIGHTS), facts), x, folder)


def write_peft(weights: Weights, folder: Path, x: Images) -> Comparison:
    """Writes an adapter's folder that PEFT reads, and JSON of the preprocessing; compared on `x`. Raises BadConfigError."""
    if weights.adapter is None:
        raise BadConfigError(
            "a base alone has no adapter for peft to read; give an adapter's folder, or another format"
        )
    try:
        import peft
    except ImportError as error:
        raise BadConfigError("this needs the package peft: pip install peft") from error
    facts = weights.facts()
    check_place(folder, _PREPROCESSING, "an earlier export")
    with folder_atomically(folder) as fresh:
        save(weights.adapter, fresh, weights.base.model)
        if json.loads((fresh / ADAPTER_CONFIG).read_text())["peft_type"] == UNREADABLE:
            raise BadConfigError(
                f"PEFT would misread adapter {weights.adapter.card.name!r} (layers or a head that it changes otherwise); "
                "export to onnx or state-dict"
            )
        module = peft.PeftModel.from_pretrained(copy.deepcopy(unwrap(weights.base.model)), str(fresh))
        (fresh / _PREPROCESSING).write_text(_text(facts), encoding="utf-8")
        return compare(weights.model, _normalized(module, facts), x, folder)


def _read(module: nn.Module, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> nn.Module:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadConfigError(
            f"{facts['architecture']} does not take these weights ({reason:.200}); export to onnx"
        ) from error
    return _normalized(module, facts)


def _normalized(module: nn.Module, facts: Mapping[str, Any]) -> nn.Module:
    return Normalized(module.eval().to(torch.float32), facts["mean"], facts["std"]).eval()


def _text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
