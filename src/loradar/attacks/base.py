"""What every attack has: checked settings, a spec, traits, other draws on demand."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import nn

from loradar.attacks.settings import check_settings, default_of, eps_of, setting, text_of
from loradar.core.attack_specs import write_spec
from loradar.core.balls import L2, Linf, Norm, norm_ball
from loradar.core.randomness import mix
from loradar.core.types import Images, Labels, LabelUse, Traits

A = TypeVar("A", bound="BaseAttack")


@dataclass(frozen=True, kw_only=True)
class BaseAttack:
    """An attack as a frozen dataclass; `register` gives its class the name in specs.

    A new attack writes its fields with the helpers of `loradar.attacks.settings`, `traits` and `__call__`. `version`
    goes up when the same setting makes other images than before, so that no cache or card mistakes one for the other.
    """

    spec_name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def spec(self) -> str:
        """`NAME:key=value,...`: what differs from the defaults, in the order of the fields."""
        norm = getattr(self, "norm", "linf")
        options = {} if self.version == 1 else {"version": str(self.version)}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.compare and value != default_of(field, norm):
                options[field.name] = text_of(value)
        return write_spec(self.spec_name, options)

    @property
    def traits(self) -> Traits:
        """What others need to know of it."""
        return Traits()

    def reseeded(self: A, seed: int) -> A:
        """The same setting with a seed mixed from its own and `seed`."""
        own: Any = self
        return dataclasses.replace(self, seed=mix(own.seed, seed))  # type: ignore[call-arg]

    def relabelled(self: A, label: LabelUse) -> A:  # noqa: ARG002
        """Itself: it takes labels as they come."""
        return self

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NormAttack(BaseAttack):
    """An attack that stays within `eps` of the image in a norm."""

    eps: float = eps_of(linf=8 / 255, l2=0.5)
    norm: Norm = setting("linf", "linf bounds every pixel value, l2 the Euclidean distance of the whole image.")

    @property
    def ball(self) -> Linf | L2:
        """What images move in."""
        return norm_ball(self.norm, self.eps)

    @property
    def traits(self) -> Traits:
        """A gradient attack in its ball."""
        return Traits(region=self.ball)
