"""The few-shot classifier in Python: scikit-learn's conventions, the answers of the engine, and one line for every mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from torch import Tensor, nn

from loradar.adapters import load, merge_weights, plug
from loradar.core.errors import BadConfigError, BadFileError, LoradarError, WrongBaseError
from loradar.data import load_source
from loradar.fewshot import classify, fit
from loradar.fewshot.blending import Blending
from loradar.fewshot.classifier import FewShotClassifier
from loradar.fewshot.config import FewShotFitConfig
from loradar.fewshot.heads import HeadConfig
from loradar.fewshot.pools import base_of, open_pool
from loradar.fewshot.transduction import Transduction
from loradar.models import Base, new_base, open_base
from tests.fewshot.made_pools import engine_of

WORDS = ("digit0", "digit1", "digit2")


class Tiny(nn.Module):
    """A classifier whose features, the means of quarters, tell dark from bright corners."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(12, 4)
        self.drop = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.pool(x)).flatten(1))
        return logits


def task(seed: int = 0, shot: int = 3, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images (classes * shot, 3, 8, 8), each class bright in a corner of its own, and labels from 0."""
    y = torch.arange(classes).repeat(shot)
    x = 0.4 * torch.rand(len(y), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    for image, label in zip(x, y.tolist(), strict=True):
        image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 0.5
    return x, y


@pytest.fixture(scope="module")
def images(support: Path) -> tuple[Tensor, list[str]]:
    source = load_source(str(support), size=(32, 32)).train
    x, y = source.fetch(torch.arange(len(source)))
    return x, [WORDS[label] for label in y.tolist()]


@pytest.mark.parametrize("head", ["ridge", "centroid"])
@pytest.mark.parametrize("transductive", [False, True])
def test_a_module_in_memory_classifies_a_new_task(head: Any, transductive: bool) -> None:
    base = Tiny().train()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    x, y = task()
    query, expected = task(seed=1, shot=5)
    found = FewShotClassifier(base, head=head, transductive=transductive).fit(x, y)
    assert torch.equal(found.predict(query), expected)
    assert found.score(query, expected) == 1.0
    assert found.weights_ == {}
    assert found.classes_.tolist() == [0, 1, 2]
    shares = found.predict_proba(query)
    assert torch.allclose(shares.sum(1), torch.ones(len(query)))
    assert torch.equal(found.decision_function(query).softmax(1), shares)
    # the base is as it was, in its mode, with its gradients
    assert base.training
    assert all(p.requires_grad for p in base.parameters())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


LABELS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda y: y * 7 - 3,
    "an array": lambda y: (y * 7 - 3).numpy().astype(np.int16),
    "a list of numbers": lambda y: (y * 7 - 3).tolist(),
    "text": lambda y: [("ant", "bee", "cow")[i] for i in y.tolist()],
    "an array of text": lambda y: np.array([("ant", "bee", "cow")[i] for i in y.tolist()]),
    "an array of objects": lambda y: np.array([("ant", "bee", "cow")[i] for i in y.tolist()], dtype=object),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("as_array", [False, True])
def test_labels_come_back_as_they_were_given(kind: str, as_array: bool, tmp_path: Path) -> None:
    x, y = task()
    query, truth = task(seed=1)
    given_labels, expected = LABELS[kind](y), LABELS[kind](truth)
    asked = query.numpy() if as_array else query
    base = Tiny()
    found = FewShotClassifier(base).fit(x.double().numpy() if as_array else x, given_labels)
    answers = found.predict(asked)
    assert isinstance(answers, Tensor) == (not as_array and "text" not in kind and "objects" not in kind)
    assert answers.tolist() == list(expected.tolist() if hasattr(expected, "tolist") else expected)
    assert found.score(asked, expected) == 1.0
    again = FewShotClassifier.load(found.save(tmp_path / "task"), base=base)
    assert again.classes_.tolist() == found.classes_.tolist()
    assert again.predict(asked).tolist() == answers.tolist()


@pytest.mark.parametrize("head", ["ridge", "centroid"])
@pytest.mark.parametrize("transductive", [False, True])
def test_a_saved_task_answers_with_the_same_bits(head: Any, transductive: bool, tmp_path: Path) -> None:
    base, (x, y), (query, _) = Tiny(), task(), task(seed=1)
    found = FewShotClassifier(base, head=head, transductive=transductive).fit(x, y)
    folder = found.save(tmp_path / "task")
    again = FewShotClassifier.load(folder, base=base, support=(x, y) if transductive else None)
    assert torch.equal(again.decision_function(query), found.decision_function(query))
    assert again.head == head
    plugged = plug(base.eval(), load(folder))(query).argmax(1)
    if not transductive:
        assert torch.equal(plugged, found.predict(query)), "the plugged base gives the same answers"
    other = Tiny()
    with pytest.raises(WrongBaseError):
        FewShotClassifier.load(folder, base=other)


@pytest.mark.parametrize("score", ["attacked", "compactness", "loss"])
def test_with_a_pool_it_is_the_engine_and_the_command(
    runs: dict[str, Path], support: Path, images: tuple[Tensor, list[str]], tmp_path: Path, score: Any
) -> None:
    x, words = images
    place = runs["resnet"]
    spec = base_of(place)
    found = FewShotClassifier(spec, place, head="ridge", member_score=score, beta=50, top=2).fit(x, words)
    engine = engine_of(place, support, n_augmentations=2)
    full = Blending(score=score, beta=50, rank_keep_ratio=0.9, head=HeadConfig(kind="ridge"))
    assert list(found.weights_.values()) == pytest.approx(list(engine.weights(full).values()), abs=0.02)
    answers = engine.answers([engine.blended(full)])
    assert found.predict(x).tolist() == [WORDS[i] for i in answers.tolist()]
    pool = open_pool(place)
    in_memory = FewShotClassifier(open_base(spec, "cpu"), pool, head="ridge", member_score=score, beta=50, top=2).fit(
        x, words
    )
    assert torch.equal(in_memory.decision_function(x), found.decision_function(x))
    # the folder is one that the command line opens, and the other way round
    pictures = sorted(support.glob("*/*.png"))
    told = classify.run(classify.resolve(found.save(tmp_path / "saved"), pictures))
    assert [one.answer for one in told] == found.predict(x).tolist()
    config = FewShotFitConfig(
        support=str(support), pool=place, out=tmp_path / "fit", head="ridge", score=score, beta=50, top=2
    )
    fit.run(fit.resolve(config))
    opened = FewShotClassifier.load(tmp_path / "fit")
    assert torch.equal(opened.decision_function(x), found.decision_function(x))
    assert opened.weights_ == found.weights_


def test_transduction_uses_the_blend_and_all_images_of_a_call(
    runs: dict[str, Path], images: tuple[Tensor, list[str]]
) -> None:
    x, words = images
    base = open_base(base_of(runs["resnet"]), "cpu")
    found = FewShotClassifier(base, runs["resnet"], transductive=True).fit(x, words)
    alone = FewShotClassifier(base, runs["resnet"]).fit(x, words)
    assert found.weights_ == alone.weights_
    model = merge_weights(base.model, found.adapter_)
    assert model(x).shape == (len(x), 3)
    rule = HeadConfig(kind="centroid", transduction=Transduction())  # the pool's own
    features = found.classifier_.wrapped(x)
    expected = rule(features, torch.tensor([WORDS.index(word) for word in words]), 3)(features)
    assert torch.allclose(found.decision_function(x), expected, atol=1e-5)
    assert not torch.allclose(found.decision_function(x)[:2], found.decision_function(x[:2]))


def test_features_may_be_the_output_of_a_base_that_is_no_classifier(tmp_path: Path) -> None:
    backbone = timm.create_model("test_resnet", num_classes=0)
    x, y = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    with pytest.raises(LoradarError, match="features='output' takes these"):
        FewShotClassifier(backbone).fit(x, y)
    found = FewShotClassifier(backbone, features="output").fit(x, y)
    expected = HeadConfig(kind="ridge")(backbone.eval()(x), y, 2)(backbone(x))
    assert torch.equal(found.predict(x), expected.argmax(1))
    with pytest.raises(BadConfigError, match="an adapter holds a task's head in the place of the base's"):
        found.save(tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_a_convolution_may_be_the_head(tmp_path: Path) -> None:
    base = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    x, y = task()
    found = FewShotClassifier(base).fit(x, y)
    again = FewShotClassifier.load(found.save(tmp_path / "task"), base=base)
    assert torch.equal(again.decision_function(x), found.decision_function(x))
    assert torch.equal(plug(base, found.adapter_)(x).argmax(1), found.predict(x))


def test_it_follows_scikit_learns_conventions() -> None:
    x, y = task()
    made = FewShotClassifier(Tiny(), top=3, seed=5)
    assert made.get_params() | {"base": None} == FewShotClassifier(None, top=3, seed=5).get_params()  # type: ignore[arg-type]
    assert not [name for name in vars(made) if name.endswith("_")]
    fitted = made.fit(x, y)
    assert fitted is made
    copied = clone(made)
    assert copied.get_params()["top"] == 3
    with pytest.raises(BadConfigError, match=r"not fitted; call fit\(x_support, y_support\) first"):
        copied.predict(x)
    assert made.set_params(top=1).top == 1
    with pytest.raises(BadConfigError, match="did you mean 'top'"):
        made.set_params(tpo=1)
    # fitted anew, nothing is left of the first task
    again = made.fit(*task(classes=4))
    assert again.classes_.tolist() == [0, 1, 2, 3]
    assert again.predict_proba(x).shape == (len(x), 4)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), shot=st.integers(1, 4), classes=st.integers(2, 4))
def test_the_order_of_the_support_does_not_matter(seed: int, shot: int, classes: int) -> None:
    x, y = task(seed, shot, classes)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    base = Tiny()
    query, _ = task(seed + 1, 2, classes)
    one, other = (
        FewShotClassifier(base).fit(*pair).decision_function(query) for pair in ((x, y), (x[order], y[order]))
    )
    assert torch.allclose(one, other, atol=1e-3)


X, Y = task()
BAD: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "one class": (X, [4] * len(Y), {}, "the support has 1 class, 4; a task needs 2 or more"),
    "fewer labels than images": (X, Y[:4], {}, r"labels have shape \(4,\), images are 9"),
    "one-hot labels": (X, torch.eye(3)[Y], {}, r"labels have shape \(9, 3\), images are 9"),
    "labels that are fractions": (X, Y.float(), {}, "labels are float32"),
    "labels of two kinds": (X, [1, "a"] + [1] * 7, {}, "of several types"),
    "labels that are missing": (X, [None, *Y.tolist()[1:]], {}, "labels are object"),
    "labels of several lengths": (X, [[1], [1, 2]], {}, "nested lists"),
    "a number for labels": (X, 3, {}, r"labels have shape \(\), images are 9"),
    "images of NaN": (X * torch.nan, Y, {}, "NaN or infinite"),
    "images of bytes": ((X * 255).byte(), Y, {}, r"expected floats in \[0, 1\]"),
    "images beyond 1": (X * 255, Y, {}, r"expected \[0, 1\]"),
    "one image": (X[0], Y[:1], {}, r"images have shape \(3, 8, 8\)"),
    "no image": (X[:0], Y[:0], {}, "nothing in the batch"),
    "text for images": ("photo.png", Y, {}, "images are a str"),
    "an array of objects": (np.array([None] * 9), Y, {}, "images are a ndarray of object"),
    "images that the base does not take": (X[:, :1], Y, {}, r"cannot take images of shape \(1, 8, 8\)"),
    "an unknown head": (X, Y, {"head": "rigde"}, "did you mean 'ridge'"),
    "an unknown score": (X, Y, {"member_score": "attack"}, "did you mean 'attacked'"),
    "no member": (X, Y, {"top": 0}, "top 1 or more"),
    "no augmentation": (X, Y, {"n_augmentations": 0}, "expected 1 or more"),
    "another place of features": (X, Y, {"features": "last"}, "expected 'head'"),
    "a pool that is not there": (X, Y, {"pool": "nowhere"}, "nowhere holds no pool"),
    "no base": (X, Y, {"base": 7}, "base is a int; expected a torch.nn.Module"),
    "a spec of no base": (X, Y, {"base": "nowhere"}, "nowhere"),
    "a base of another size": (
        X,
        Y,
        {"base": new_base("timm:test_resnet", num_classes=3, input_size=(3, 32, 32))},
        r"images have shape \(9, 3, 8, 8\), the base takes \(n, 3, 32, 32\)",
    ),
    "a base that gives maps": (
        X,
        Y,
        {"base": nn.Conv2d(3, 3, 1), "features": "output"},
        r"features of shape \(1, 3, 8, 8\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_do_is_one_line(case: str) -> None:
    x, y, changes, says = BAD[case]
    with pytest.raises(LoradarError, match=says) as caught:
        FewShotClassifier(**({"base": Tiny()} | changes)).fit(x, y)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_and_unknown_labels_are_refused_after_the_fit(tmp_path: Path) -> None:
    base = Tiny()
    found = FewShotClassifier(base).fit(X, Y)
    with pytest.raises(LoradarError, match=r"images have shape \(9, 3, 4, 4\), the task takes \(n, 3, 8, 8\)"):
        found.predict(X[..., :4, :4])
    with pytest.raises(LoradarError, match="label 7 is none of the task's; known: '0', '1', '2'"):
        found.score(X, Y + 7)
    again = FewShotClassifier.load(found.save(tmp_path / "task"), base=base)
    with pytest.raises(LoradarError, match=r"cannot take images of shape \(1, 8, 8\)"):
        again.predict(X[:, :1])
    with pytest.raises(BadFileError, match="give it with --base"):
        FewShotClassifier.load(tmp_path / "task")
    with torch.no_grad():
        base.head.weight.fill_(torch.nan)
    assert found.predict(X).shape == (9,), "the base's own head is not asked"


def test_a_pool_of_another_base_is_refused(runs: dict[str, Path], images: tuple[Tensor, list[str]]) -> None:
    other: Base = new_base("timm:test_resnet", num_classes=7, input_size=(3, 32, 32), seed=2)
    with pytest.raises(WrongBaseError):
        FewShotClassifier(other, runs["resnet"]).fit(*images)
