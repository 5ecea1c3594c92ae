"""The nouns that every family shares. Images are float, NCHW, in [0, 1]; normalisation is a layer of the model."""

from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

Images: TypeAlias = Tensor
"""(batch, channels, height, width), floating point, every value in [0, 1]."""

Labels: TypeAlias = Tensor
"""(batch,), int64, each in [0, classes)."""

Logits: TypeAlias = Tensor
"""(batch, classes), before any softmax."""

Threat: TypeAlias = Literal["clean", "transfer", "adaptive"]
"""What the attacker knew: nothing was attacked, the unmodified base, or the very model that is measured."""


@runtime_checkable
class Attack(Protocol):
    """A frozen setting with a call. Its repr is its setting, and the report prints it.

    `x_adv` has the shape, dtype and device of `x`, lies in [0, 1], and depends on nothing but `model`, `x`, `y` and the
    setting (its `seed` among it). The model is left as it was found.
    """

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images: ...


class Ball(Protocol):
    """The perturbations that an attack may make around an image."""

    def project(self, x_adv: Images, x: Images) -> Images:
        """The point of the ball around `x` that is nearest to `x_adv`."""
        ...

    def sample(self, x: Images, seed: int) -> Images:
        """A random point of the ball around each image of `x`."""
        ...

    def steepest(self, grad: Tensor) -> Tensor:
        """The unit step that gains most along `grad`, per image, in the norm of the ball."""
        ...


class ProgressBar(Protocol):
    """One bar of progress."""

    def advance(self, amount: int = 1, note: str = "") -> None: ...


class Progress(Protocol):
    """Receives the progress of long work. The library itself never prints."""

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar: ...

    def message(self, text: str) -> None:
        """Receives one line for people, such as an estimate of the time that the work will take."""
        ...


class _NullBar:
    def advance(self, amount: int = 1, note: str = "") -> None: ...


class NullProgress:
    """Ignores progress; the default of every job."""

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:  # noqa: ARG002
        return _NullBar()

    def message(self, text: str) -> None: ...
