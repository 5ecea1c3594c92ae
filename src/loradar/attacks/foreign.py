"""Attacks that are not ours: plain functions, torchattacks, foolbox, ART. Wrapped, they keep the contract of an attack."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loradar.attacks.base import BaseAttack
from loradar.attacks.objectives import borrowed, logits_of
from loradar.attacks.parsing import parse_attack
from loradar.attacks.settings import EPS, pixels, seed_setting, setting
from loradar.core.attack_specs import number_text, shown, write_spec
from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.randomness import seeded_rng
from loradar.core.types import Attack, Images, Labels, Traits

# what a library's own clipping may leave outside [0, 1] by rounding
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class ForeignAttack(BaseAttack):
    """What the wrappers share: `name` is the identity, and nothing is taken for granted.

    The traits are the cautious ones: images of a batch may hang on each other, and nothing is kept in a cache, because
    the name does not tell what the code does.
    """

    name: str = setting("", "What reports call it. Default: its qualified name and settings.")
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", qualified_name(self.wrapped))
        super().__post_init__()

    @property
    def wrapped(self) -> Any:
        """The object that is wrapped."""
        raise NotImplementedError

    @property
    def spec(self) -> str:
        """`KIND:name=...`. It is an identity only: no attack can be made of it."""
        return write_spec(self.spec_name, {"name": self.name} | ({"seed": str(self.seed)} if self.seed else {}))

    @property
    def traits(self) -> Traits:
        """The cautious ones."""
        return Traits(independent_rows=False, whole_batches=False, cacheable=False)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1]. Raises BadImagesError, also where the wrapped attack gives anything else."""
        with left_as_found(model), borrowed(model, x, y) as (x, y), seeded_rng(self.seed):
            with torch.no_grad():
                check_labels(y, count=len(x), classes=logits_of(model, x[:1]).shape[1])
            return self._accepted(self._run(model, x.clone(), y.clone()), x)

    def _run(self, model: nn.Module, x: Images, y: Labels) -> object:
        raise NotImplementedError

    def _accepted(self, made: object, x: Images) -> Images:
        if not isinstance(made, Tensor) or made.shape != x.shape:
            what = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise BadImagesError(f"attack {self.name!r} gave {what}; expected images of shape {tuple(x.shape)}")
        x_adv = made.detach().to(x)
        near = x_adv.clamp(0, 1)
        x_adv = torch.where((x_adv - near).abs() <= _ROUNDING, near, x_adv)
        try:
            check_images(x_adv)
        except BadImagesError as error:
            raise BadImagesError(f"attack {self.name!r} gave {error}") from error
        return x_adv


@dataclass(frozen=True, kw_only=True)
class FunctionAttack(ForeignAttack):
    """A plain function (or any callable) of model, images and labels: `FunctionAttack(fn, name="mine")`.

    >>> FunctionAttack(lambda model, x, y: 1 - x, name="negative").spec
    'function:name=negative'
    """

    spec_name: ClassVar[str] = "function"

    fn: Callable[[nn.Module, Images, Labels], Images] = dataclasses.field(kw_only=False)

    @property
    def wrapped(self) -> Any:
        """The function."""
        return self.fn

    def _run(self, model: nn.Module, x: Images, y: Labels) -> object:
        return self.fn(model, x, y)


@dataclass(frozen=True, kw_only=True)
class TorchAttack(ForeignAttack):
    """An attack of torchattacks: the object, or what makes it of a model (`partial(torchattacks.PGD, eps=8 / 255)`).

    An object is bound to its model; it is copied and bound to the model of each call.
    """

    spec_name: ClassVar[str] = "torchattacks"

    attack: Any = dataclasses.field(kw_only=False)

    @property
    def wrapped(self) -> Any:
        """The object, or what makes it."""
        return self.attack

    def _run(self, model: nn.Module, x: Images, y: Labels) -> object:
        if not hasattr(self.attack, "set_model"):
            return self.attack(model)(x, y)
        bound = copy.deepcopy(self.attack, {id(self.attack.model): self.attack.model})
        bound.set_model(model)
        bound.set_device(x.device)
        return bound(x, y)


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(ForeignAttack):
    """An attack of foolbox at one `eps`: `FoolboxAttack(foolbox.attacks.LinfPGD(steps=10), eps=8 / 255)`."""

    spec_name: ClassVar[str] = "foolbox"

    attack: Any = dataclasses.field(kw_only=False)
    eps: float = pixels(8 / 255, "Radius of the perturbation, in the attack's own norm.", limits=EPS["l2"])

    @property
    def wrapped(self) -> Any:
        """The object."""
        return self.attack

    @property
    def spec(self) -> str:
        """`foolbox:name=...,eps=...`."""
        options = {"name": self.name, "eps": number_text(self.eps)}
        return write_spec(self.spec_name, options | ({"seed": str(self.seed)} if self.seed else {}))

    def _run(self, model: nn.Module, x: Images, y: Labels) -> object:
        try:
            import foolbox
        except ImportError as error:
            raise BadConfigError("FoolboxAttack needs the package foolbox: pip install foolbox") from error
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        _, clipped, _ = self.attack(bounded, x, foolbox.criteria.Misclassification(y), epsilons=self.eps)
        return clipped


class _Answers(nn.Module):
    """A model's answers, for a library that moves and switches the modules that it is given: it finds none in here."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


@dataclass(frozen=True, kw_only=True)
class ARTAttack(ForeignAttack):
    """An attack of ART, by what makes it of an estimator: `ARTAttack(partial(ProjectedGradientDescentPyTorch, eps=8 / 255))`.

    The estimator takes images and gives logits in float32, on the processor; the model stays where it is.
    """

    spec_name: ClassVar[str] = "art"

    attack: Callable[[Any], Any] = dataclasses.field(kw_only=False)

    @property
    def wrapped(self) -> Any:
        """What makes it."""
        return self.attack

    def _run(self, model: nn.Module, x: Images, y: Labels) -> object:
        try:
            from art.estimators.classification import PyTorchClassifier
        except ImportError as error:
            raise BadConfigError(
                "ARTAttack needs the package adversarial-robustness-toolbox: pip install adversarial-robustness-toolbox"
            ) from error
        with torch.no_grad():
            classes = logits_of(model, x[:1]).shape[1]
        estimator = PyTorchClassifier(
            _Answers(lambda images: logits_of(model, images.to(x)).float().cpu()),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0, 1),
            device_type="cpu",
        )
        return torch.from_numpy(self.attack(estimator).generate(x.float().cpu().numpy(), y.cpu().numpy()))


def as_attack(attack: object) -> Attack:
    """An attack out of what a user holds: an attack, a spec, a torchattacks object, or a function of model, x and y.

    Raises BadConfigError for anything else.
    """
    if isinstance(attack, str):
        return parse_attack(attack)
    if isinstance(attack, type):
        raise BadConfigError(f"{attack.__name__} is a class; expected an attack: {attack.__name__}(...)")
    if isinstance(attack, Attack):
        return attack
    package = type(attack).__module__.partition(".")[0]
    if package == "torchattacks":
        return TorchAttack(attack)
    if package == "foolbox":
        raise BadConfigError("an attack of foolbox needs its eps; wrap it: FoolboxAttack(attack, eps=8 / 255)")
    if callable(attack):
        return FunctionAttack(attack)
    raise BadConfigError(
        f"{shown(repr(attack))} is no attack; expected a spec, an attack or a function of model, x and y"
    )


def qualified_name(thing: Any) -> str:
    """A name that tells one callable from another in every process. Raises BadConfigError where there is none."""
    if isinstance(thing, functools.partial):
        settings = [*map(repr, thing.args), *(f"{key}={value!r}" for key, value in thing.keywords.items())]
        name = f"{qualified_name(thing.func)}({', '.join(settings)})"
    elif (owner := getattr(thing, "__self__", None)) is not None:
        name = f"{qualified_name(owner)}.{thing.__name__}"
    elif hasattr(thing, "__qualname__"):
        name = f"{thing.__module__}.{thing.__qualname__}"
    else:
        name = f"{type(thing).__module__}.{thing!r}"
    if any(sign in name for sign in (" at 0x", "<lambda>", "<locals>")):
        raise BadConfigError(f"{shown(name)} has no name that tells it from others; give it one: name='...'")
    return name


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Puts back what a foreign attack may change of a model: values, gradients, modes, what asks for gradients."""
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    parameters = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for parameter, grad, asks in parameters:
            parameter.requires_grad_(asks)
            parameter.grad = grad
        for module, training in modes:
            module.training = training
