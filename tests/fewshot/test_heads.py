"""Heads made of a support in closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Peer
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, BadDataError
from loradar.fewshot.heads import CENTROID, Centroids, HeadConfig, MeanLogits, Ridge, TaskClassifier, prototypes_of
from loradar.fewshot.transduction import Transduction

RULES = [CENTROID, HeadConfig(kind="ridge"), HeadConfig(kind="ridge", last=3), HeadConfig(last=3)]


def _support(seed: int, n: int = 15, d: int = 8) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    return torch.randn(n, d, generator=draws) + labels[:, None], labels


def test_centroids_agree_with_easyfsl() -> None:
    methods = pytest.importorskip("easyfsl.methods")
    support, labels = _support(0)
    query = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    peer = methods.SimpleShot()
    peer.process_support_set(support, labels)
    ours = TaskClassifier(nn.Identity(), CENTROID(support, labels, 5))
    assert torch.allclose(ours(query), 10 * peer(query), atol=1e-5)


@given(seed=st.integers(0, 2**16), penalty=st.floats(1e-2, 1e2), d=st.sampled_from([3, 40]))
def test_ridge_agrees_with_scikit_learn(seed: int, penalty: float, d: int) -> None:
    support, labels = _support(seed, d=d)
    query = torch.randn(20, d, generator=torch.Generator().manual_seed(seed + 1))
    unit_support, unit_query = (nn.functional.normalize(part.double(), dim=1) for part in (support, query))
    spread = float((unit_support - unit_support.mean(0)).square().sum(1).mean())
    targets = nn.functional.one_hot(labels, 5).double() - 0.2
    peer = Peer(alpha=penalty * spread, fit_intercept=False).fit(unit_support, targets)
    ours = HeadConfig(kind="ridge", penalty=penalty)(support, labels, 5)
    expected = 10 * torch.from_numpy(peer.predict(unit_query))
    assert torch.allclose(ours(query).double(), expected, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_heads_do_not_ask_how_long_a_query_is(rule: HeadConfig) -> None:
    support, labels = _support(2)
    query = support + 0.1
    head = rule(support, labels, 5)
    assert torch.allclose(head(torch.arange(1, 16)[:, None] * query), head(query), atol=1e-4)


def test_a_ridge_can_be_learned_through() -> None:
    support, labels = _support(6)
    support.requires_grad_()
    loss = nn.functional.cross_entropy(HeadConfig(kind="ridge")(support, labels, 5)(support.detach()), labels)
    (gradient,) = torch.autograd.grad(loss, support)
    assert float(gradient.norm()) > 0


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1, 2, 3, 4]])
def test_ridge_of_equal_images_prefers_no_class(labels: list[int]) -> None:
    head = HeadConfig(kind="ridge")(torch.ones(len(labels), 4), torch.tensor(labels), 5)
    assert torch.allclose(head(torch.rand(3, 4)), torch.zeros(3, 5), atol=1e-5)


@pytest.mark.parametrize("rule", [*RULES[:2], HeadConfig(kind="ridge", transduction=Transduction())])
def test_a_class_of_many_images_does_not_take_all_answers(rule: HeadConfig) -> None:
    draws = torch.Generator().manual_seed(0)
    counts = torch.tensor([30, 3, 3])
    centres = torch.rand(3, 64, generator=draws)

    def features(labels: Tensor) -> Tensor:
        return (centres[labels] + 0.3 * torch.randn(len(labels), 64, generator=draws)).relu()

    labels, asked = torch.arange(3).repeat_interleave(counts), torch.arange(3).repeat(20)
    answers = rule(features(labels), labels, 3)(features(asked)).argmax(1)
    assert float((answers == asked).float().mean()) > 0.8


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.last])
def test_the_last_features_alone_are_read(rule: HeadConfig) -> None:
    support, labels = _support(3)
    query = torch.rand(6, 8)
    moved = torch.cat([query[:, :5] + 9, query[:, 5:]], 1)
    head = rule(support, labels, 5)
    assert torch.equal(head(query), head(moved))
    alone = HeadConfig(kind=rule.kind)(support[:, 5:], labels, 5)
    assert torch.equal(head(query), alone(query[:, 5:]))


@pytest.mark.parametrize("rule", RULES)
def test_a_class_without_an_image_is_refused(rule: HeadConfig) -> None:
    with pytest.raises(BadDataError, match="class 4 of the task has no support"):
        rule(torch.rand(4, 8), torch.arange(4), 5)


def test_a_penalty_of_nothing_is_refused() -> None:
    with pytest.raises(BadConfigError, match="expected a number above 0"):
        HeadConfig(penalty=0)


@pytest.mark.parametrize("rule", RULES)
def test_a_classifier_can_be_attacked_and_averaged(rule: HeadConfig) -> None:
    support, labels = _support(4, d=12)
    model = TaskClassifier(nn.Flatten(), rule(support, labels, 5))
    x = torch.rand(2, 3, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert bool(gradient.any())
    other = TaskClassifier(nn.Flatten(), Centroids(prototypes_of(support.flip(0), labels, 5)))
    assert torch.allclose(MeanLogits([model, other])(x), (model(x) + other(x)) / 2)


def test_a_ridge_answers_as_a_linear_layer_does() -> None:
    support, labels = _support(5)
    head = HeadConfig(kind="ridge")(support, labels, 5)
    assert isinstance(head, Ridge)
    assert head.weight.shape == (5, 8)
    assert torch.equal(head(support).argmax(1), (support @ head.weight.T).argmax(1))
