"""The contract of every attack: a table with a row for each, and what each row must pass."""

import dataclasses
import pickle
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import loradar.attacks
from loradar.attacks import (
    APGD,
    FGSM,
    FIA,
    MIFGSM,
    MSD,
    PGD,
    ROA,
    ARTAttack,
    AutoAttack,
    BaseAttack,
    FoolboxAttack,
    ForeignAttack,
    FunctionAttack,
    NormAttack,
    Pyramid,
    RandomChoice,
    Smooth,
    TorchAttack,
    UniformNoise,
    WorstOf,
    available_attacks,
    parse_attack,
)
from loradar.attacks.rectangles import grid
from loradar.attacks.registry import PRESETS, attack_class
from loradar.core.errors import BadImagesError
from loradar.core.modules import Wrapper
from loradar.core.types import Attack
from tests.attacks.toys import Counting, Linear, Net, answers, pictures

RADIUS = 0.06


def in_linf(x_adv: Tensor, x: Tensor) -> bool:
    return bool((x_adv - x).abs().max() <= RADIUS + 1e-6)


def in_l2(x_adv: Tensor, x: Tensor) -> bool:
    return bool((x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6)


def in_rectangle(x_adv: Tensor, x: Tensor) -> bool:
    """Every image changed inside some 3 x 2 rectangle only."""
    changed = (x_adv != x).any(1)
    rows, columns = changed.any(2), changed.any(1)
    spans = [int(line.nonzero().max() - line.nonzero().min()) + 1 for line in [*rows, *columns] if line.any()]
    return max(spans[: len(x)]) <= 3 and max(spans[len(x) :]) <= 2


def best_in_linf(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    return (x + RADIUS * model.margin_weights(y).sign()).clamp(0, 1)


def best_in_l2(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    w = model.margin_weights(y)
    lengths: Tensor = w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return x + 0.5 * w / lengths


def best_for_logit(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    """FIA lowers the label's own logit: with linear features, along the sign of its weights."""
    return (x - RADIUS * model.weights()[y].sign()).clamp(0, 1)


def best_rectangle(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    """Grey at the position of highest margin, then each value at whichever end of [0, 1] helps."""
    places = grid(x, height=3, width=2, stride=1)
    masks = places.masks(torch.arange(places.count), x)
    painted = torch.where(masks, 0.5, x[:, None])
    w = model.margin_weights(y)
    position = (painted * w[:, None]).sum((2, 3, 4)).argmax(1)
    return torch.where(masks[position], (w > 0).double(), x)


def rude_fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Right images by the worst of manners: it moves modes, gradients, weights, buffers, draws, and its own inputs."""
    model.train()
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf).float(), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    made = (x + RADIUS * leaf.grad.sign()).clamp(0, 1)
    x.zero_()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    np.random.rand(random.randrange(3))
    torch.rand(2)
    model.train()
    return made


def made_by_torchattacks(model: nn.Module, eps: float) -> Any:
    import torchattacks

    return torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=10)


def made_by_art(estimator: Any) -> Any:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    return ProjectedGradientDescentPyTorch(estimator, eps=RADIUS, eps_step=RADIUS / 4, max_iter=10, verbose=False)


class MadeByFoolbox:
    """Foolbox's PGD, imported at its first call: the table is made where foolbox may be missing."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        import foolbox

        return foolbox.attacks.LinfPGD(abs_stepsize=RADIUS / 4, steps=10)(*args, **settings)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row. `optimum` is the closed form on a linear model of two classes, `gain` the share of it that is reached.

    `needs` is the package that must be installed.
    """

    attack: Attack
    inside: Callable[[Tensor, Tensor], bool]
    optimum: Callable[[Linear, Tensor, Tensor], Tensor]
    gain: float = 0.999
    needs: str = ""

    @property
    def is_foreign(self) -> bool:
        return isinstance(self.attack, ForeignAttack)


CASES = {
    "FGSM": Case(attack=FGSM(eps=RADIUS), inside=in_linf, optimum=best_in_linf),
    "FGSM at random": Case(
        attack=FGSM(eps=RADIUS, noise=1.0, step_size=2 * RADIUS), inside=in_linf, optimum=best_in_linf
    ),
    "N-FGSM": Case(attack=FGSM(eps=RADIUS / 3, noise=2.0, clip=False), inside=in_linf, optimum=best_in_linf, gain=0.2),
    "FGSM L2": Case(attack=FGSM(eps=0.5, norm="l2"), inside=in_l2, optimum=best_in_l2),
    "PGD": Case(attack=PGD(eps=RADIUS), inside=in_linf, optimum=best_in_linf),
    # what the random start brought in the other 191 directions fades step by step
    "PGD L2": Case(attack=PGD(eps=0.5, norm="l2", steps=40), inside=in_l2, optimum=best_in_l2, gain=0.97),
    "PGD restarts": Case(attack=PGD(eps=RADIUS, restarts=3, loss="margin"), inside=in_linf, optimum=best_in_linf),
    "PGD best": Case(attack=PGD(eps=RADIUS, keep="best"), inside=in_linf, optimum=best_in_linf),
    "APGD": Case(attack=APGD(eps=RADIUS, steps=20), inside=in_linf, optimum=best_in_linf),
    "APGD L2": Case(attack=APGD(eps=0.5, norm="l2", steps=40), inside=in_l2, optimum=best_in_l2, gain=0.97),
    "APGD restarts": Case(
        attack=APGD(eps=RADIUS, steps=20, restarts=2, loss="margin"), inside=in_linf, optimum=best_in_linf
    ),
    # a grid of 4 x 4 cells is far from the best change of 8 x 8 pixels
    "Smooth": Case(attack=Smooth(eps=RADIUS, cells=4), inside=in_linf, optimum=best_in_linf, gain=0.1),
    "Smooth L2": Case(attack=Smooth(eps=0.5, norm="l2", cells=4), inside=in_l2, optimum=best_in_l2, gain=0.1),
    # the kl of its own start is what it climbs, so no closed form; its bound is 31 times its radius
    "Pyramid": Case(attack=Pyramid(eps=RADIUS / 31), inside=in_linf, optimum=best_in_linf, gain=-1.0),
    "Pyramid, cross-entropy": Case(
        attack=Pyramid(eps=RADIUS / 31, loss="cross_entropy", steps=5),
        inside=in_linf,
        optimum=best_in_linf,
        gain=-1.0,
    ),
    "PGD kl": Case(attack=PGD(eps=RADIUS, loss="kl"), inside=in_linf, optimum=best_in_linf, gain=-1.0),
    "MIFGSM": Case(attack=MIFGSM(eps=RADIUS), inside=in_linf, optimum=best_in_linf),
    "FIA": Case(attack=FIA(eps=RADIUS, step_size=RADIUS / 10), inside=in_linf, optimum=best_for_logit),
    "ROA": Case(attack=ROA(height=3, width=2, search="exhaustive"), inside=in_rectangle, optimum=best_rectangle),
    "ROA coarse": Case(
        attack=ROA(height=3, width=2, search="coarse", schedule="linear", momentum=0.5),
        inside=in_rectangle,
        optimum=best_rectangle,
        gain=0.9,
    ),
    "ROA margin": Case(
        attack=ROA(height=3, width=2, search="exhaustive", loss="margin", keep="best"),
        inside=in_rectangle,
        optimum=best_rectangle,
    ),
    # it looks at 20 of 42 positions, by their gradient alone: on a linear model the same for every image
    "ROA gradient": Case(
        attack=ROA(height=3, width=2, restarts=2), inside=in_rectangle, optimum=best_rectangle, gain=0.5
    ),
    "UniformNoise": Case(attack=UniformNoise(eps=RADIUS), inside=in_linf, optimum=best_in_linf, gain=-1.0),
    "WorstOf": Case(
        attack=WorstOf(attacks=(UniformNoise(eps=RADIUS), PGD(eps=RADIUS))), inside=in_linf, optimum=best_in_linf
    ),
    "RandomChoice": Case(
        attack=RandomChoice(attacks=(FGSM(eps=RADIUS), PGD(eps=RADIUS))), inside=in_linf, optimum=best_in_linf
    ),
    "MSD": Case(
        attack=MSD(attacks=(PGD(eps=RADIUS), PGD(eps=RADIUS / 2, norm="linf"))), inside=in_linf, optimum=best_in_linf
    ),
    # it stops where an image is fooled, and draws for the batch as a whole
    "AutoAttack": Case(
        attack=AutoAttack(eps=RADIUS, attacks=("apgd-ce",)),
        inside=in_linf,
        optimum=best_in_linf,
        gain=-1.0,
    ),
    # what is not ours: a function that minds nothing, and the field's libraries where they are installed
    "FunctionAttack": Case(attack=FunctionAttack(rude_fgsm, name="rude"), inside=in_linf, optimum=best_in_linf),
    "TorchAttack": Case(
        attack=TorchAttack(partial(made_by_torchattacks, eps=RADIUS), name="torchattacks-pgd"),
        inside=in_linf,
        optimum=best_in_linf,
        needs="torchattacks",
    ),
    "FoolboxAttack": Case(
        attack=FoolboxAttack(MadeByFoolbox(), eps=RADIUS, name="foolbox-pgd"),
        inside=in_linf,
        optimum=best_in_linf,
        needs="foolbox",
    ),
    "ARTAttack": Case(
        attack=ARTAttack(made_by_art, name="art-pgd"), inside=in_linf, optimum=best_in_linf, needs="art.estimators"
    ),
}


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    if case is not None and case.needs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a library warns of when it is imported is not ours
            pytest.importorskip(case.needs, reason=f"{case.needs} (a peer) is not installed")


every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def test_every_public_attack_has_a_row() -> None:
    public = {getattr(loradar.attacks, name) for name in loradar.attacks.__all__}
    classes = {entry for entry in public if isinstance(entry, type) and issubclass(entry, BaseAttack)}
    assert classes - {BaseAttack, NormAttack, ForeignAttack} == {type(case.attack) for case in CASES.values()}


def test_every_registered_attack_has_a_row() -> None:
    assert {attack_class(name) for name in available_attacks() if name not in PRESETS} <= {
        type(case.attack) for case in CASES.values()
    }


@every
def test_stays_in_its_ball_and_keeps_shape_and_dtype(case: Case) -> None:
    model = Net()
    for x in (pictures(6).float(), pictures(6, seed=1).float().round()):  # inside the box, and at its corners
        x_adv = case.attack(model, x, answers(model, x))
        assert x_adv.shape == x.shape
        assert x_adv.dtype == x.dtype
        assert x_adv.device == x.device
        assert not x_adv.requires_grad
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert not torch.equal(x_adv, x)
        assert case.inside(x_adv, x)


@every
def test_leaves_the_room_as_it_was(case: Case) -> None:
    model = Net()
    model.train()
    model.layer1.eval()  # a mixture, as a model with frozen statistics has
    model.fc.weight.requires_grad_(False)
    model.fc.bias.grad = torch.ones_like(model.fc.bias)
    x, y = pictures(4).float(), torch.tensor([0, 1, 2, 3])
    before = _room(model, x, y)
    case.attack(model, x, y)
    after = _room(model, x, y)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same, name


def _room(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    state: dict[str, Any] = {name: value.clone() for name, value in model.state_dict().items()}
    state |= {f"mode {name}": module.training for name, module in model.named_modules()}
    state |= {f"hooks {name}": len(module._forward_hooks) for name, module in model.named_modules()}
    for name, parameter in model.named_parameters():
        state[f"requires_grad {name}"] = parameter.requires_grad
        state[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
    state |= {"x": x.clone(), "y": y.clone(), "x requires_grad": x.requires_grad, "grad mode": torch.is_grad_enabled()}
    state |= {"torch": torch.get_rng_state(), "random": random.getstate()}
    return state | {"numpy": pickle.dumps(np.random.get_state())}


@every
def test_model_sees_nothing_but_images(case: Case) -> None:
    counting = Counting(Net())
    x = pictures(4).float().round()  # at the corners of the box, where every ball reaches outside
    case.attack(counting, x, answers(counting.wrapped, x))
    assert all(seen.min() >= 0 and seen.max() <= 1 for seen in counting.seen)


@every
def test_same_seed_same_bits_whatever_the_grad_mode(case: Case) -> None:
    model, x = Net(), pictures(3).float()
    y = answers(model, x)
    first = case.attack(model, x, y)
    torch.rand(3)  # the global generator has no say
    assert torch.equal(case.attack(model, x, y), first)
    with torch.no_grad():
        assert torch.equal(case.attack(model, x, y), first)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(case.attack(model, x.clone(), y.clone()), first)


@every
def test_batch_of_one_equals_its_row_of_a_batch(case: Case) -> None:
    if not case.attack.traits.independent_rows:
        pytest.skip("draws for the batch as a whole")
    model, x = Net().double(), pictures(8)
    y = answers(model, x)
    together = case.attack(model, x, y)
    for i in (0, 3, 7):
        alone = case.attack(model, x[i : i + 1], y[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-9)


@every
def test_linear_model_comes_near_the_closed_form(case: Case) -> None:
    model, x = Linear(), pictures(8, low=0.3, high=0.7)
    x = x.float() if isinstance(case.attack, AutoAttack) else x
    model = model.to(x.dtype)
    y = answers(model, x)
    w = model.double().margin_weights(y)
    best = case.optimum(model, x.double(), y)
    x_adv = case.attack(model.to(x.dtype), x, y).double()
    gained, possible = ((w * (moved - x)).sum((1, 2, 3)) for moved in (x_adv, best))
    assert (possible > 0).all()
    assert (gained >= case.gain * possible - 1e-6).all()
    if case.optimum not in (
        best_rectangle,
        best_for_logit,
    ):  # those are optimal for what they ascend, not for the margin
        assert (gained <= possible + 1e-5).all()


@every
def test_model_that_computes_in_half_precision(case: Case) -> None:
    class Half(Wrapper):
        def __init__(self) -> None:
            super().__init__()
            self.wrapped = Net()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits: Tensor = self.wrapped(x)
            return logits

    model, x = Half(), pictures(3).float()
    x_adv = case.attack(model, x, answers(model, x))
    assert x_adv.dtype == torch.float32
    assert case.inside(x_adv, x)


@every
def test_refuses_what_is_no_image_or_no_label(case: Case) -> None:
    model, x, y = Net(), pictures(2).float(), torch.tensor([0, 1])
    with pytest.raises(BadImagesError, match="expected \\[0, 1\\]"):
        case.attack(model, x * 255, y)
    with pytest.raises(BadImagesError, match="expected 2 integers"):
        case.attack(model, x, y[:1])
    if not isinstance(case.attack, UniformNoise):  # it does not ask the model
        with pytest.raises(BadImagesError, match="the model has 5 classes"):
            case.attack(model, x, torch.tensor([0, 5]))


@every
def test_is_a_frozen_setting_whose_repr_and_spec_say_all(case: Case) -> None:
    attack = case.attack
    assert isinstance(attack, Attack)
    assert dataclasses.is_dataclass(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.seed = 1
    assert "\n" not in attack.spec
    if case.is_foreign:
        assert not attack.traits.cacheable  # its name does not tell what its code does
        return
    names = dict(vars(loradar.attacks))
    for again in (eval(repr(attack), names), parse_attack(attack.spec)):
        assert again == attack
        assert hash(again) == hash(attack)
        assert again.spec == attack.spec


@every
def test_other_draws_are_another_identity(case: Case) -> None:
    first, second = case.attack.reseeded(1), case.attack.reseeded(2)
    assert first == case.attack.reseeded(1)
    assert len({first.spec, second.spec, case.attack.spec}) == 3


@every
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_keeps_the_device(case: Case) -> None:
    model, x = Net().cuda(), pictures(3).float().cuda()
    y = answers(model, x)
    x_adv = case.attack(model, x, y)
    assert x_adv.device == x.device
    assert case.inside(x_adv, x)
