"""All queries of a task answered at once: what it takes away, what it needs, and that it can be attacked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from loradar.core.errors import BadConfigError
from loradar.fewshot.heads import HeadConfig, HeadKind, TaskClassifier
from loradar.fewshot.transduction import Transduction

KINDS: tuple[HeadKind, ...] = ("centroid", "ridge")


def _task(seed: int, *, query: int = 10, shot: int = 1, d: int = 24, noise: float = 0.8) -> tuple[Tensor, ...]:
    """Support (5 * shot, d), its labels, queries (5 * query, d), theirs: five clouds."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, d, generator=draws)
    labels, asked = torch.arange(5).repeat(shot), torch.arange(5).repeat(query)

    def cloud(y: Tensor) -> Tensor:
        return centres[y] + noise * torch.randn(len(y), d, generator=draws)

    return cloud(labels), labels, cloud(asked), asked


def _right(rule: HeadConfig, shift: float = 0.0, **task: int) -> float:
    found = []
    for seed in range(20):
        support, labels, query, asked = _task(seed, **task)
        answer = rule(support, labels, 5)(query + shift)
        found.append(float((answer.argmax(1) == asked).float().mean()))
    return sum(found) / len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_help_each_other(kind: HeadKind) -> None:
    alone, together = HeadConfig(kind=kind), HeadConfig(kind=kind, transduction=Transduction())
    assert _right(together) > _right(alone) + 0.02
    # what all queries have in common costs little
    assert _right(together, shift=2.0) > _right(together) - 0.05
    assert _right(alone, shift=2.0) < _right(alone) - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_and_the_mean_are_each_worth_something(kind: HeadKind) -> None:
    whole = _right(HeadConfig(kind=kind, transduction=Transduction()), shift=1.0)
    assert whole > _right(HeadConfig(kind=kind, transduction=Transduction(rounds=0)), shift=1.0)
    assert whole > _right(HeadConfig(kind=kind, transduction=Transduction(prior=1e6)), shift=1.0)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 3))
def test_few_queries_are_answered_nearly_as_alone(kind: HeadKind, seed: int, count: int) -> None:
    support, labels, query, _ = _task(seed, shot=5, noise=0.2)
    head = HeadConfig(kind=kind, transduction=Transduction())(support, labels, 5)
    alone = HeadConfig(kind=kind)(support, labels, 5)
    assert torch.equal(head(query[:count]).argmax(1), alone(query[:count]).argmax(1))


@given(seed=st.integers(0, 2**16))
def test_the_order_and_the_length_of_queries_do_not_matter(seed: int) -> None:
    support, labels, query, _ = _task(seed)
    head = HeadConfig(kind="ridge", transduction=Transduction())(support, labels, 5)
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(query), generator=draws)
    longer = query * (1 + torch.rand(len(query), 1, generator=draws))
    assert torch.allclose(head(longer[order]), head(query)[order], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_rounds_or_weight_it_is_the_head_about_the_means(kind: HeadKind) -> None:
    support, labels, query, _ = _task(3)
    one, other = F.normalize(support, dim=1), F.normalize(query, dim=1)
    expected = HeadConfig(kind=kind)(one - one.mean(0), labels, 5)(other - other.mean(0))
    for rule in (Transduction(rounds=0, prior=0), Transduction(weight=0, prior=0)):
        found = HeadConfig(kind=kind, transduction=rule)(support, labels, 5)(query)
        assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_sees_the_whole_batch(kind: HeadKind) -> None:
    support, labels, query, _ = _task(4)
    model = TaskClassifier(nn.Identity(), HeadConfig(kind=kind, transduction=Transduction())(support, labels, 5))
    query.requires_grad_()
    (gradient,) = torch.autograd.grad(model(query)[0, 1], query)
    # the answer to one query moves with every other
    assert bool((gradient.norm(dim=1) > 0).all())
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_are_no_trouble(kind: HeadKind) -> None:
    head = HeadConfig(kind=kind, transduction=Transduction())(torch.ones(5, 4), torch.arange(5), 5)
    query = torch.ones(3, 4, requires_grad=True)
    logits = head(query)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(torch.autograd.grad(logits.sum(), query)[0]).all()


@pytest.mark.parametrize("bad", [{"rounds": -1}, {"weight": -0.1}, {"weight": float("inf")}, {"prior": float("nan")}])
def test_what_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadConfigError, match="expected finite numbers, none below 0"):
        Transduction(**bad)  # type: ignore[arg-type]
