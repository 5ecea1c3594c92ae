"""Our attacks as those of foolbox and ART: the images of ours to the bit, in the shapes of theirs."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD, WorstOf, as_attack
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.integrations import art_attack, foolbox_attack
from loradar.models import wrap
from tests.attacks.toys import Net, answers, pictures

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
SPECS = ("pgd:steps=3,seed=7", "roa:height=3,width=3", "fia:layer=layer2,n_masks=3,steps=2", "pgd:steps=2|noise")


def peer(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} (a peer) is not installed")


def by_foolbox(model: nn.Module, attack: Any, x: Tensor, y: Tensor, *, normalised: bool) -> Tensor:
    foolbox = peer("foolbox")
    given = {"mean": MEAN, "std": STD, "axis": -3} if normalised else None
    within = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu", preprocessing=given)
    raw, clipped, success = foolbox_attack(attack)(within, x, foolbox.criteria.Misclassification(y), epsilons=None)
    assert torch.equal(raw, clipped)
    assert torch.equal(success, within(clipped).argmax(1) != y)
    return torch.as_tensor(clipped)


def estimator_of(model: nn.Module, *, normalised: bool = False, **settings: Any) -> Any:
    classification = peer("art.estimators.classification")
    given: dict[str, Any] = {"preprocessing": (MEAN, STD)} if normalised else {}
    given |= {"loss": nn.CrossEntropyLoss(), "input_shape": (3, 8, 8), "nb_classes": 5, "clip_values": (0, 1)}
    if normalised:
        given["preprocessing"] = tuple(np.array(one, dtype=np.float32).reshape(3, 1, 1) for one in (MEAN, STD))
    return classification.PyTorchClassifier(model, device_type="cpu", **given | settings)


def by_art(model: nn.Module, attack: Any, x: Tensor, y: Tensor, *, normalised: bool) -> Tensor:
    made = art_attack(estimator_of(model, normalised=normalised), attack)
    x_adv = made.generate(x.numpy(), y.numpy())
    assert x_adv.dtype == np.float32
    assert np.array_equal(made.generate(x.numpy(), np.eye(5)[y.numpy()]), x_adv), "one-hot labels are the same labels"
    return torch.from_numpy(x_adv)


LIBRARIES: dict[str, Callable[..., Tensor]] = {"foolbox": by_foolbox, "art": by_art}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_images_are_ours_to_the_bit(library: str, normalised: bool) -> None:
    model, x = Net(), pictures(6).float()
    ours = wrap(model, MEAN, STD).eval() if normalised else model
    y = answers(ours, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for spec in SPECS:
        expected = as_attack(spec)(ours, x, y)
        assert not torch.equal(expected, x)
        found = LIBRARIES[library](model, spec, x, y, normalised=normalised)
        assert torch.equal(found, expected), spec
        assert torch.equal(LIBRARIES[library](model, as_attack(spec), x, y, normalised=normalised), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_foolbox_epsilons_shapes_and_repeats() -> None:
    foolbox = peer("foolbox")
    model, x = Net(), pictures(6).float()
    y = answers(model, x)
    within = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    ours = foolbox_attack("pgd:steps=2")
    assert isinstance(ours, foolbox.attacks.base.Attack)
    raw, clipped, success = ours(within, x, y, epsilons=[0.001, 0.1, None])
    # foolbox's own PGD gives the same shapes
    theirs = foolbox.attacks.LinfPGD(steps=2)(within, x, y, epsilons=[0.001, 0.1, 8 / 255])
    assert (len(raw), len(clipped), success.shape, success.dtype) == (3, 3, theirs[2].shape, theirs[2].dtype)
    for index, eps in enumerate((0.001, 0.1, 8 / 255)):
        assert torch.equal(clipped[index], PGD(steps=2, eps=eps)(model, x, y))
    assert not success[0].all()
    assert success[1].all()
    alone = ours(within, x, y, epsilons=0.1)
    assert torch.equal(alone[1], clipped[1])
    assert alone[2].shape == (6,)
    repeated = ours.repeat(3)(within, x, y, epsilons=None)[1]
    seeds = tuple(PGD(steps=2).reseeded(i) for i in (1, 2))
    assert torch.equal(repeated, WorstOf(attacks=(PGD(steps=2), *seeds))(model, x, y))
    # their tensors come back as they were given
    wrapped = foolbox.models.base.ep.astensor(x)
    tensors = ours(
        within, wrapped, foolbox.criteria.Misclassification(foolbox.models.base.ep.astensor(y)), epsilons=0.1
    )
    assert torch.equal(tensors[1].raw, clipped[1])
    assert torch.equal(tensors[2].raw, success[1])


def test_foolbox_refusals_are_one_line() -> None:
    foolbox = peer("foolbox")
    model, x, y = Net(), pictures(2).float(), torch.tensor([0, 1])
    within = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    ours = foolbox_attack("roa:height=3")
    wide = foolbox.PyTorchModel(model, bounds=(0, 255), device="cpu")
    with pytest.raises(BadConfigError, match=r"bounds are \(0, 255\); expected \(0, 1\)"):
        ours(wide, x, y, epsilons=None)
    with pytest.raises(BadConfigError, match=r"expected a foolbox\.PyTorchModel"):
        ours(model, x, y, epsilons=None)
    with pytest.raises(BadConfigError, match="has no eps of its own"):
        ours(within, x, y, epsilons=0.1)
    with pytest.raises(BadConfigError, match="eps is 3"):
        foolbox_attack("pgd")(within, x, y, epsilons=3)
    with pytest.raises(BadConfigError, match="no attack is aimed"):
        ours(within, x, foolbox.criteria.TargetedMisclassification(y), epsilons=None)
    with pytest.raises(BadImagesError, match="expected a torch tensor"):
        ours(within, x.numpy(), y, epsilons=None)
    with pytest.raises(BadImagesError, match="expected \\[0, 1\\]"):
        ours(within, x * 2, y, epsilons=None)


def test_art_takes_predicted_labels_and_says_what_it_does_not_take() -> None:
    art = peer("art.attacks.attack")
    model, x = Net(), pictures(6).float()
    estimator = estimator_of(model)
    ours = art_attack(estimator, "pgd:steps=2", batch_size=4)
    assert isinstance(ours, art.EvasionAttack)
    x_adv = ours.generate(x=x.numpy())
    assert np.array_equal(x_adv, ours.generate(x=x.numpy(), y=answers(model, x).numpy()))
    assert (estimator.predict(x_adv).argmax(1) != estimator.predict(x.numpy()).argmax(1)).any()
    ours.set_params(attack=PGD(steps=1))
    assert not np.array_equal(ours.generate(x=x.numpy()), x_adv)
    odd: list[tuple[dict[str, Any], str]] = [
        ({"clip_values": (0, 255)}, r"clip_values are .*; expected \(0, 1\)"),
        ({"clip_values": None}, r"clip_values are None; expected \(0, 1\)"),
        ({"channels_first": False}, "channels last"),
    ]
    for settings, says in odd:
        with pytest.raises(BadConfigError, match=says):
            art_attack(estimator_of(model, **settings), "pgd")
    defence = peer("art.defences.preprocessor").GaussianAugmentation(augmentation=False)
    with pytest.raises(BadConfigError, match="preprocessing has no gradient"):
        art_attack(estimator_of(model, preprocessing_defences=defence), "pgd")
    with pytest.raises(BadConfigError, match="expected a PyTorchClassifier"):
        art_attack(model, "pgd")
    with pytest.raises(BadImagesError, match="expected \\[0, 1\\]"):
        ours.generate(x.numpy() * 2)
    refused: list[tuple[Any, str]] = [
        (x, "are a Tensor; expected a numpy array"),
        (x.permute(0, 2, 3, 1).numpy(), r"shape \(6, 8, 8, 3\); the estimator takes \(n, 3, 8, 8\)"),
        (x[0].numpy(), r"a single image is x\[None\]"),
        ((255 * x).byte().numpy(), "torch.uint8; expected floats"),
    ]
    for images, says in refused:
        with pytest.raises(BadImagesError, match=says):
            ours.generate(images)


def test_art_takes_lists_of_labels_and_double_precision() -> None:
    model, x = Net(), pictures(4).float()
    ours, y = art_attack(estimator_of(model), "pgd:steps=2"), answers(model, x).numpy()
    x_adv = ours.generate(x.numpy(), y)
    assert np.array_equal(ours.generate(x.numpy(), y.tolist()), x_adv)
    double = ours.generate(x.double().numpy(), y)
    assert double.dtype == np.float64
    assert np.array_equal(double, x_adv), "ART computes in single precision"


def test_the_page_about_other_libraries_runs() -> None:
    for name in ("foolbox", "art.attacks.attack", "lightning.pytorch"):
        peer(name)
    page = Path(__file__).parents[2] / "docs/how-to/other-libraries.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)  # the page is what is tested
    assert len(blocks) == 4
    assert 0 <= names["search"].best_score_ <= 1
    assert names["success"].shape == (6,)
    assert names["x_adv"].shape == (6, 3, 8, 8)
