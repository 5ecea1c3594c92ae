"""Writing a model as a file that other runtimes read: torch.export's `.pt2`, or ONNX."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.files import write_atomically

FORMATS = (".pt2", ".onnx")


def export(model: nn.Module, path: Path | str, *, input_size: Sequence[int] | None = None) -> Path:
    """Writes `model` to `path`, for batches of any size: `.pt2` (torch.export) or `.onnx`; returns the path.

    `input_size` is (channels, height, width) of an image; a plugged model knows that of its adapter's training images.
    The file takes images in [0, 1], whatever normalisation the model has inside. It is read again, and its logits are
    compared with the model's. ONNX needs the extra `onnx`. Raises BadConfigError for another suffix, an unknown input
    size, or a model that cannot be exported.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise BadConfigError(f"{path} has the suffix {path.suffix!r}; expected {' or '.join(FORMATS)}")
    size = input_size or getattr(model, "input_size", None)
    if size is None:
        raise BadConfigError("the size of the images is not known; give input_size=(channels, height, width)")
    parameter = next(model.parameters(), torch.empty(0))
    x = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    was_training = [module for module in model.modules() if module.training]
    try:
        for module in was_training:
            module.training = False
        with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            # a plugged model holds its adapter's factors outside its parameters: they become constants, as they should
            warnings.filterwarnings("ignore", message="A model attribute .*lifted_tensor")
            # tensors that share memory are written once
            warnings.filterwarnings("ignore", message="No complete tensor found")
            expected: Tensor = model(x)
            program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            file = Path(folder) / f"model{path.suffix}"
            found = _write_pt2(program, file, x) if path.suffix == ".pt2" else _write_onnx(program, file, x)
            _check_same(expected.cpu(), found, path)
            write_atomically(path, file.read_bytes())
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadConfigError(
            f"{type(model).__name__} cannot be exported with images of {tuple(size)}: {reason}"
        ) from error
    finally:
        for module in was_training:
            module.training = True
    return path


def _write_pt2(program: torch.export.ExportedProgram, file: Path, x: Tensor) -> Tensor:
    torch.export.save(program, file)
    again: Tensor = torch.export.load(file).module()(x)
    return again.detach().cpu()


def _write_onnx(program: torch.export.ExportedProgram, file: Path, x: Tensor) -> Tensor:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    except ImportError as error:
        raise BadConfigError(
            "ONNX needs the packages onnx, onnxscript and onnxruntime: pip install 'loradar[onnx]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated parts
        written = torch.onnx.export(
            program, (x,), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    assert written is not None
    written.save(str(file), external_data=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.cpu().numpy()})
    return torch.from_numpy(found)


def _check_same(expected: Tensor, found: Tensor, path: Path) -> None:
    largest = float((expected - found).abs().max())
    if not largest <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise BadConfigError(f"the logits of {path} differ from the model's by {largest:.3g}; it was not written")
