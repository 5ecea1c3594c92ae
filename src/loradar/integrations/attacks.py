"""Our attacks as attacks of foolbox and of the Adversarial Robustness Toolbox (ART)."""

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loradar.attacks import WorstOf, as_attack
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.modules import Wrapper, evaluating
from loradar.core.types import Attack, Images
from loradar.evaluation import predict, run_attack


class _Prepared(Wrapper):
    """A user's module behind the preprocessing of another library; attacks find its layers by the module's own names."""

    def __init__(self, wrapped: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.prepare = prepare

    def forward(self, x: Images) -> Any:
        return self.wrapped(self.prepare(x))


def foolbox_attack(attack: Attack | str) -> Any:
    """Makes an attack of foolbox: `attack(fmodel, images, criterion, epsilons=...)`.

    Args:
        attack: An attack, or a spec such as "roa:height=5".

    The images are those of the attack itself, to the bit. An epsilon replaces the attack's `eps`; None keeps the
    attack as it is. Raw and clipped images are the same, for ours never leave their set. `repeat(times)` tries other
    seeds and keeps the strongest image. Calls take a `foolbox.PyTorchModel` with bounds (0, 1), tensors (batch,
    channels, height, width) and `Misclassification` (or labels); they raise BadConfigError for anything else, and
    BadImagesError for images outside their contract.

    >>> import foolbox
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    >>> fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    >>> x, y = torch.rand(5, 3, 2, 2), torch.arange(5) % 4
    >>> raw, clipped, success = foolbox_attack("pgd:steps=2")(fmodel, x, y, epsilons=[2 / 255, 8 / 255])
    >>> clipped[1].shape, success.shape
    (torch.Size([5, 3, 2, 2]), torch.Size([2, 5]))
    """
    foolbox = _imported("foolbox", "foolbox_attack", "foolbox")

    class LoradarAttack(foolbox.attacks.base.Attack):  # type: ignore[misc, name-defined]
        def __init__(self, attack: Attack, times: int = 1) -> None:
            self.attack, self.times = attack, times

        def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any) -> tuple[Any, Any, Any]:
            module = _of_foolbox(model, foolbox)
            wanted = foolbox.attacks.base.get_criterion(criterion)
            if not isinstance(wanted, foolbox.criteria.Misclassification):
                raise BadConfigError(
                    f"the criterion is {wanted!r}; expected Misclassification(labels): no attack is aimed"
                )
            x = getattr(inputs, "raw", inputs)  # foolbox takes tensors of eagerpy too
            if not isinstance(x, Tensor):
                raise BadImagesError(f"images are a {type(x).__name__}; expected a torch tensor")
            several = isinstance(epsilons, Iterable)
            made, success = [], []
            for eps in epsilons if several else [epsilons]:
                x_adv = self._at(eps)(module, x, wanted.labels.raw)
                with evaluating(module), torch.no_grad():
                    logits = model(foolbox.models.base.ep.astensor(x_adv))
                    success.append(wanted(x_adv, logits).raw)
                made.append(x_adv if x is inputs else type(inputs)(x_adv))
            flags = torch.stack(success) if several else success[0]
            images = made if several else made[0]
            return images, images, flags if x is inputs else type(inputs)(flags)

        def repeat(self, times: int) -> "LoradarAttack":
            return LoradarAttack(self.attack, self.times * times)

        def _at(self, eps: float | None) -> Attack:
            attack = self.attack if eps is None else _with_eps(self.attack, float(eps))
            others = tuple(attack.reseeded(i) for i in range(1, self.times))
            return WorstOf(attacks=(attack, *others)) if others else attack

    return LoradarAttack(as_attack(attack))


def _of_foolbox(model: Any, foolbox: Any) -> nn.Module:
    """The module within a model of foolbox, behind its preprocessing. Raises BadConfigError."""
    if not isinstance(model, foolbox.PyTorchModel):
        raise BadConfigError(f"the model is a {type(model).__name__}; expected a foolbox.PyTorchModel")
    if tuple(model.bounds) != (0, 1):
        raise BadConfigError(
            f"the model's bounds are {tuple(model.bounds)}; expected (0, 1): model.transform_bounds((0, 1)), and images in it"
        )
    # foolbox keeps the module in a closure, which asks for no gradients but those of the images
    inner = dict(zip(model._model.__code__.co_freevars, model._model.__closure__, strict=True))["model"].cell_contents
    return _Prepared(inner, lambda x: model._preprocess(foolbox.models.base.ep.astensor(x)).raw)


def _with_eps(attack: Attack, eps: float) -> Attack:
    if not (dataclasses.is_dataclass(attack) and any(field.name == "eps" for field in dataclasses.fields(attack))):
        raise BadConfigError(f"attack {attack.spec!r} has no eps of its own to set to {eps:g}; expected epsilons=None")
    return dataclasses.replace(attack, eps=eps)


def art_attack(estimator: Any, attack: Attack | str, *, batch_size: int = 128) -> Any:
    """Makes an evasion attack of ART: `attack.generate(x, y)`.

    Args:
        estimator: A `PyTorchClassifier` with `clip_values=(0, 1)` and channels first, whose preprocessing torch computes.
        attack: An attack, or a spec such as "roa:height=5".
        batch_size: Images that are attacked together.

    `generate` takes arrays (n, channels, height, width), labels as integers or one-hot rows, or no labels: then those
    that the classifier predicts. The images are those of `attack` itself, to the bit. Raises BadConfigError for another
    estimator, and BadImagesError for images or labels outside their contract.

    >>> from art.estimators.classification import PyTorchClassifier
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    >>> settings = {"loss": nn.CrossEntropyLoss(), "input_shape": (3, 2, 2), "nb_classes": 4, "clip_values": (0, 1)}
    >>> attack = art_attack(PyTorchClassifier(model, device_type="cpu", **settings), "pgd:steps=2")
    >>> attack.generate(np.random.default_rng(0).random((5, 3, 2, 2), dtype=np.float32)).shape
    (5, 3, 2, 2)
    """
    art = _imported("art.attacks.attack", "art_attack", "adversarial-robustness-toolbox")
    classification = _imported("art.estimators.classification", "art_attack", "adversarial-robustness-toolbox")
    if not isinstance(estimator, classification.PyTorchClassifier):
        raise BadConfigError(f"the estimator is a {type(estimator).__name__}; expected a PyTorchClassifier of ART")
    clips = estimator.clip_values
    if clips is None or np.any(np.asarray(clips[0]) != 0) or np.any(np.asarray(clips[1]) != 1):
        raise BadConfigError(f"the estimator's clip_values are {clips}; expected (0, 1): scale the images to it")
    if not estimator.channels_first:
        raise BadConfigError("the estimator has its channels last; expected channels_first=True")
    if not estimator.all_framework_preprocessing:
        raise BadConfigError("the estimator's preprocessing has no gradient; expected preprocessors of torch alone")

    class LoradarAttack(art.EvasionAttack):  # type: ignore[misc, name-defined]
        attack_params = ("attack", "batch_size")
        _estimator_requirements = (classification.PyTorchClassifier,)

        def __init__(self) -> None:
            super().__init__(estimator=estimator)
            self.attack, self.batch_size = as_attack(attack), batch_size

        def generate(self, x: Any, y: Any = None) -> Any:
            prepare = estimator._apply_preprocessing
            module = _Prepared(estimator.model, lambda images: prepare(images, y=None, fit=False, no_grad=False)[0])
            images = _as_images(x, tuple(estimator.input_shape))
            labels = predict(module, images, batch_size=self.batch_size) if y is None else _as_labels(y)
            return run_attack(self.attack, module, images, labels, batch_size=self.batch_size).numpy().astype(x.dtype)

    return LoradarAttack()


def _as_images(x: Any, shape: tuple[int, ...]) -> Tensor:
    """Images (n, *shape) in float32, as ART computes. Raises BadImagesError."""
    if not isinstance(x, np.ndarray):
        raise BadImagesError(f"images are a {type(x).__name__}; expected a numpy array")
    if x.ndim == 4 and x.shape[1:] != shape:
        raise BadImagesError(f"images have shape {x.shape}; the estimator takes (n, {', '.join(map(str, shape))})")
    return torch.tensor(x.astype(np.float32) if x.dtype.kind == "f" else x)


def _as_labels(y: Any) -> Tensor:
    """(n,) labels of integers, or of one-hot rows."""
    y = np.asarray(y)
    return torch.tensor(y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(len(y)))


def _imported(module: str, user: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadConfigError(f"{user} needs the package {package}: pip install {package}") from error
