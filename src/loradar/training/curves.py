"""Curves for TensorBoard, where they are wanted."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loradar.core.errors import BadConfigError

Draw = Callable[[int, Mapping[str, float]], None]


@contextmanager
def curves(folder: Path | None) -> Iterator[Draw]:
    """Something that takes (step, values by name); without a folder it takes them and does nothing.

    Raises BadConfigError where the extra `tensorboard` is not installed.
    """
    if folder is None:
        yield lambda _step, _values: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadConfigError("tensorboard is not installed; pip install 'loradar[tensorboard]'") from error
    with SummaryWriter(str(folder)) as writer:

        def draw(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield draw
