"""The nouns that every family shares. Images are float, NCHW, in [0, 1]; normalisation is a layer of the model."""

from dataclasses import dataclass
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


class NormBall(Ball, Protocol):
    """Everything within `radius` of an image, in some norm."""

    @property
    def radius(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What others need to know of an attack. The defaults hold for a gradient attack that treats each image alone.

    `layers` are the layers whose output it reads, `parts` the attacks that it is made of. With `independent_rows` an
    image's outcome does not depend on the others of its batch; with `whole_batches` the model is always asked for the
    whole batch, never for the images alone that still resist. `region` is the set that images move in: a norm ball, the
    (height, width) of a rectangle, or None for anything else. `cacheable` says that the spec tells everything.
    """

    layers: frozenset[str] = frozenset()
    parts: "tuple[Attack, ...]" = ()
    needs_gradients: bool = True
    independent_rows: bool = True
    whole_batches: bool = True
    region: NormBall | tuple[int, int] | None = None
    cacheable: bool = True


LabelUse: TypeAlias = Literal["true", "predicted", "given", "random"]
"""Whose label an attack starts from: `y` as the true one, the model's answer, `y` as any other, one drawn at random."""


@runtime_checkable
class Attack(Protocol):
    """A frozen setting with a call: `x_adv = attack(model, x, y)`.

    `x_adv` has the shape, dtype and device of `x`, lies in [0, 1], and depends on nothing but `model`, `x`, `y` and the
    setting (its `seed` among it). The model is left as it was found.
    """

    @property
    def spec(self) -> str:
        """The setting as one line of text: its identity in caches, cards and rows."""
        ...

    @property
    def traits(self) -> Traits:
        """What others need to know of it."""
        ...

    def reseeded(self, seed: int) -> "Attack":
        """The same setting with other draws, for an attack that is repeated at every step."""
        ...

    def relabelled(self, label: LabelUse) -> "Attack":
        """The same setting with the labels used so; itself where it takes labels as they come."""
        ...

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) adversarial images."""
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
