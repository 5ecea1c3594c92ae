"""Exports what lies in a folder: a base, an adapter on its base, a few-shot task or a guard."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from loradar.adapters import Adapter, load, merge_weights
from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.names import ADAPTER_CONFIG, GUARD_RECORD
from loradar.core.remote import find_file
from loradar.core.types import Images, Labels
from loradar.data import ImageSet, Source, fetch_all, load_source, split
from loradar.evaluation import check_classes
from loradar.evaluation.data_checks import divided_by
from loradar.exporting import SUFFIXES, Comparison, random_images, write_graph
from loradar.guard.guard import Guard
from loradar.jobs.bases import at_size, open_base_of
from loradar.jobs.config import ExportConfig
from loradar.jobs.export_weights import Weights, write_peft, write_state_dict, write_timm
from loradar.models import Base, open_base

_COMPARED, _CALIBRATED, _COUNTED = 64, 128, 256
"""Images to compare answers on; of int8, to calibrate on, and to compare and count right answers on."""
_READ_BY = {
    "onnx": "onnxruntime",
    "onnx-int8": "onnxruntime",
    "aoti": "torch's AOTInductor",
    "timm": "timm",
    "peft": "peft",
}
_WEIGHTS: dict[str, tuple[str, Callable[[Weights, Path, Images], Comparison]]] = {
    "state-dict": (".safetensors", write_state_dict),
    "timm": ("-timm", write_timm),
    "peft": ("-peft", write_peft),
}
"""How files are called, and written, that hold no graph."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportJob:
    """What to write, and where. `model` maps images `x` to logits, in float32 on the CPU; `weights` are None of a guard.

    For int8, `shown` are the images to calibrate on, and `y` the labels of `x`: None, and `uncounted` says why, where
    they cannot be answers of the model.
    """

    model: nn.Module
    weights: Weights | None
    metadata: Mapping[str, Any]
    x: Images
    to: str
    path: Path
    shown: Images | None = None
    y: Labels | None = None
    uncounted: str = ""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Where a file lies, and how it answers when `read_by` its runtime; `uncounted` says why int8's accuracy is not known."""

    path: Path
    read_by: str
    comparison: Comparison
    uncounted: str = ""


def resolve(config: ExportConfig) -> ExportJob:
    """Opens what is to be written. Raises LoradarError, also for a format that does not go with it."""
    model, weights, base = _opened(config)
    if config.to in _WEIGHTS and weights is None:
        raise BadConfigError(
            f"{config.place} is a guard, several models that vote, which {config.to} cannot hold; expected onnx, "
            "torch-export or aoti"
        )
    adapter = weights.adapter if weights else None
    classes = (adapter.card.classes if adapter else ()) or base.classes
    metadata = {
        "input": "images: float32, (batch, channels, height, width), RGB in [0, 1]; normalisation is in the model",
        "input_size": list(base.input_size),
        "classes": list(classes) if classes else None,
    }
    x, shown, y, uncounted = random_images(base.input_size), None, None, ""
    source = None if config.data is None else load_source(config.data, size=base.input_size[1:])
    if config.to == "onnx-int8":
        if source is None:
            raise BadConfigError("onnx-int8 is calibrated on images; give --data, of the kind that it will see")
        trained = next(iter(model.state.adapters.values())) if isinstance(model, Guard) else adapter
        calibrating, counted = images_for_int8(source, trained)
        shown, (x, y) = fetch_all(calibrating)[0], fetch_all(counted)
        try:
            check_classes(replace(base, classes=classes, num_classes=len(classes)) if classes else base, source)
        except BadConfigError as error:
            y, uncounted = None, str(error)
    elif source is not None:
        x = fetch_all(source.train if source.test is None else source.test, _COMPARED)[0]
    suffix = SUFFIXES[config.to] if config.to in SUFFIXES else _WEIGHTS[config.to][0]
    name = Path(config.place.partition("@")[0].rpartition(":")[2]).name or "model"
    path = config.out or Path(f"{name}{suffix}")
    if suffix.startswith(".") and path.suffix != suffix:
        raise BadConfigError(f"{path} has the suffix {path.suffix!r}; expected {suffix}")
    return ExportJob(
        model=model,
        weights=weights,
        metadata=metadata,
        x=x,
        to=config.to,
        path=path,
        shown=shown,
        y=y,
        uncounted=uncounted,
    )


def images_for_int8(source: Source, adapter: Adapter | None) -> tuple[ImageSet, ImageSet]:
    """Draws what int8 is calibrated on, from the training split, and what it is compared on, which is not of these.

    Without a test split, the second are of those that `harden` held back from `adapter`. Raises BadDataError.
    """
    data = adapter.card.data if adapter and divided_by(adapter.card, source) else {}
    there = len(source.train if source.test is None else source.test)
    most = data["splits"]["reported"]["count"] if data else _COUNTED
    counted = min(_COUNTED, most, there if source.test is not None else max(1, there // 2))
    left = len(source.train) - (counted if source.test is None else 0) - 1
    drawn = split(
        source, train=max(1, min(_CALIBRATED, left)), validation=1, reported=counted, seed=data.get("seed", 0)
    )
    return drawn.train, drawn.reported


def run(job: ExportJob) -> Exported:
    """Writes the file, if it answers as the model does when it is read again. Raises LoradarError."""
    if job.to in _WEIGHTS:
        assert job.weights is not None, "seen by resolve"
        found = _WEIGHTS[job.to][1](job.weights, job.path, job.x)
    else:
        found = write_graph(
            job.model,
            job.path,
            job.x,
            to=job.to,  # type: ignore[arg-type]
            metadata=job.metadata,
            shown=job.shown,
            y=job.y,
        )
    return Exported(path=job.path, read_by=_READ_BY.get(job.to, "torch"), comparison=found, uncounted=job.uncounted)


def _opened(config: ExportConfig) -> tuple[nn.Module, Weights | None, Base]:
    """The model, its weights by name where it is one model, and the base: always in float32, which all runtimes have."""
    if find_file(config.place, GUARD_RECORD):
        guard = _open_guard(config)
        if config.size not in (None, guard.input_size[1:]):
            raise BadConfigError(f"a guard takes images of {guard.input_size[1:]} alone; leave --size out")
        return guard, None, guard.state.base
    adapter: Adapter | None = None
    if find_file(config.place, ADAPTER_CONFIG):
        adapter = load(config.place, key=config.key)
        base = open_base_of(adapter, config.place, config.base, "cpu")
    elif config.base is not None or config.key is not None:
        raise BadConfigError(f"{config.place} is taken for a base; --base and --key are for adapters, tasks and guards")
    else:
        base = open_base(config.place, "cpu")
    base = at_size(base, config.size)
    model = base.model if adapter is None else merge_weights(base.model, adapter)
    return model, Weights(base=base, model=model, adapter=adapter), base


def _open_guard(config: ExportConfig) -> Guard:
    try:
        return Guard.open(config.place, device="cpu", precision="fp32", key=config.key)
    except LoradarError:
        if config.base is None:
            raise
        return Guard.open(config.place, base=config.base, device="cpu", precision="fp32", key=config.key)
