"""Writing a model as a file that other runtimes read: ONNX, torch.export's `.pt2`, or a package compiled by AOTInductor."""

import json
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.files import write_atomically
from loradar.core.modules import evaluating
from loradar.core.randomness import generator
from loradar.core.types import Images, Labels, Logits

GraphFormat: TypeAlias = Literal["onnx", "onnx-int8", "torch-export", "aoti"]
Runtime: TypeAlias = Callable[[Images], Tensor]
SUFFIXES: dict[GraphFormat, str] = {"onnx": ".onnx", "onnx-int8": ".onnx", "torch-export": ".pt2", "aoti": ".pt2"}
METADATA = "loradar.json"
"""Under what name a `.pt2` keeps, among its extra files, what ONNX keeps as its properties."""
_EXAMPLES, _TRIED = 2, 6
"""Images of the batch that a model is traced with, and of those that are compared: in batches of other sizes."""
_TOLERANCE = 1e-3
_COMPARED_AT_ONCE, _CALIBRATED_AT_ONCE = 128, 16


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a written file answers beside its model: the `largest` difference of logits, and `equal` answers of `total`.

    `right` are the right answers of the model, and those of the file, where there are labels.
    """

    largest: float
    equal: int
    total: int
    right: tuple[int, int] | None = None


def export(
    model: nn.Module,
    path: Path | str,
    *,
    to: GraphFormat | None = None,
    input_size: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `model` to `path`, for batches of any size: `.pt2` (torch.export) or `.onnx`; returns the path.

    `to` says the format where the suffix leaves it open: "aoti" is a `.pt2` too. `input_size` is (channels, height, width)
    of an image; a plugged model knows that of its adapter's training images. The file takes images in [0, 1], whatever
    normalisation the model has inside, and holds the size and `metadata`. It is read again, and its answers are compared
    with the model's. ONNX needs the extra `onnx`. Raises BadConfigError for another suffix, an unknown input size, a
    model that cannot be exported, or a file that answers otherwise.
    """
    path = Path(path)
    if to == "onnx-int8":
        raise BadConfigError("onnx-int8 is calibrated on images; export a folder, with data=")
    if path.suffix not in SUFFIXES.values() or (to is not None and path.suffix != SUFFIXES[to]):
        expected = " or ".join(dict.fromkeys(SUFFIXES.values())) if to is None else SUFFIXES[to]
        raise BadConfigError(f"{path} has the suffix {path.suffix!r}; expected {expected}")
    size = input_size or getattr(model, "input_size", None)
    if size is None:
        raise BadConfigError("the size of the images is not known; give input_size=(channels, height, width)")
    kind: GraphFormat = to or ("onnx" if path.suffix == ".onnx" else "torch-export")
    write_graph(model, path, random_images(size), to=kind, metadata={"input_size": list(size), **(metadata or {})})
    return path


def random_images(size: Sequence[int]) -> Images:
    """Makes the images of (channels, height, width) that files are compared on where there are no others."""
    return torch.rand(_TRIED, *size, generator=generator(0))


def write_graph(
    model: nn.Module,
    path: Path,
    x: Images,
    *,
    to: GraphFormat,
    metadata: Mapping[str, Any],
    shown: Images | None = None,
    y: Labels | None = None,
) -> Comparison:
    """Writes `model`, compared on `x` (n, channels, height, width), 4 images or more, of labels `y`; else as `export`.

    "onnx-int8" is calibrated on the images `shown`; its answers may differ.
    """
    parameter = next(model.parameters(), torch.empty(0))
    x, text = x.to(parameter.device), json.dumps(metadata, ensure_ascii=False)
    try:
        with (
            evaluating(model),
            torch.no_grad(),
            warnings.catch_warnings(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")  # the exporters warn of their own deprecated parts, and of shared tensors
            model(x[:1])  # what looks at a first batch has seen it
            # of a batch of 1 torch would take the size for a constant
            batches = ({0: torch.export.Dim("batch", min=1)},)
            program = torch.export.export(model, (x[:_EXAMPLES].clone(),), dynamic_shapes=batches)
            file = Path(folder) / f"model{path.suffix}"
            again = _WRITERS[to](program, file, text)
            if shown is not None:
                again = _quantize(file, shown)
            found = compare(model, again, x, path, y=y, exactly=shown is None)
            write_atomically(path, file.read_bytes())
    except (LoradarError, OSError):
        raise
    except Exception as error:  # exporters and compilers raise anything
        raise BadConfigError(
            f"{type(model).__name__} cannot be exported with images of {tuple(x.shape[1:])}: {_reason(error)}"
        ) from error
    return found


def compare(
    model: Callable[[Images], Logits],
    again: Runtime,
    x: Images,
    place: Path,
    *,
    y: Labels | None = None,
    exactly: bool = True,
) -> Comparison:
    """Compares two models on one image, and on all others in batches; counts right answers where there are labels `y`.

    Raises BadConfigError where logits differ by more than rounding, or an answer differs; not `exactly`, where none is equal.
    """
    if len(x) < _EXAMPLES + 2:
        raise BadConfigError(f"{len(x)} images are too few to compare answers on; expected {_EXAMPLES + 2} or more")
    with torch.no_grad():
        batches = (x[:1], *torch.split(x[1:], _COMPARED_AT_ONCE))
        pairs = [(model(batch).cpu(), again(batch).detach().cpu()) for batch in batches]
    if any(one.shape != other.shape for one, other in pairs):
        raise BadConfigError(f"{place} gives logits of other shapes than the model's; it was not written")
    expected, found = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    answers = expected.argmax(1), found.argmax(1)
    equal, largest = int((answers[0] == answers[1]).sum()), float((expected - found).abs().max())
    close = equal == len(x) and largest <= _TOLERANCE * max(1.0, float(expected.abs().max()))
    if not (close if exactly else equal and math.isfinite(largest)):
        raise BadConfigError(
            f"{place} answers {equal} of {len(x)} images as the model does, and its logits differ by up to {largest:.3g}; "
            "expected equal ones: it was not written"
        )
    right = None if y is None else (int((answers[0] == y).sum()), int((answers[1] == y).sum()))
    return Comparison(largest=largest, equal=equal, total=len(x), right=right)


def _write_pt2(program: torch.export.ExportedProgram, file: Path, text: str) -> Runtime:
    torch.export.save(program, file, extra_files={METADATA: text})
    return open_graph(file)


def _write_onnx(program: torch.export.ExportedProgram, file: Path, text: str) -> Runtime:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    except ImportError as error:
        raise BadConfigError(
            "ONNX needs the packages onnx, onnxscript and onnxruntime: pip install 'loradar[onnx]'"
        ) from error
    written = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False)
    assert written is not None
    for key, value in json.loads(text).items():
        written.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    written.save(str(file), external_data=False)
    return open_graph(file)


def open_graph(file: Path) -> Runtime:
    """Opens an `.onnx` in onnxruntime, with as many threads as torch has, or a `.pt2` of torch.export."""
    if file.suffix == ".pt2":
        return cast(Runtime, torch.export.load(file).module())
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.cpu().numpy()})[0])


def _quantize(file: Path, x: Images) -> Runtime:
    """Replaces weights and activations of the ONNX `file` by int8, in the ranges that images `x` take."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Shown(quantization.CalibrationDataReader):  # type: ignore[misc]
        batches = iter(x.cpu().split(_CALIBRATED_AT_ONCE))  # type: ignore[no-untyped-call]

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    # its symbolic shapes fail on graphs with branches, such as a guard's
    quant_pre_process(str(file), str(file), skip_symbolic_shape=True)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # a line for each vector, such as a gain of LayerNorm, that has no channels
    try:
        quantization.quantize_static(str(file), str(file), Shown(), per_channel=True)
    finally:
        logging.disable(before)
    return open_graph(file)


def _write_aoti(program: torch.export.ExportedProgram, file: Path, text: str) -> Runtime:
    if not shutil.which(os.environ.get("CXX", "g++")) and not shutil.which("clang++"):
        raise BadConfigError(
            "aoti compiles C++, and there is no g++ or clang++; install one, or export to torch-export"
        )
    metadata = {"aot_inductor.metadata": {METADATA: text}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=metadata)
    return cast(Runtime, torch._inductor.aoti_load_package(str(file)))


_WRITERS: dict[GraphFormat, Callable[[torch.export.ExportedProgram, Path, str], Runtime]] = {
    "onnx": _write_onnx,
    "onnx-int8": _write_onnx,
    "torch-export": _write_pt2,
    "aoti": _write_aoti,
}


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # torch's own lines are about how to report it
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
