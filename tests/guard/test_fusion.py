"""The fusion rules: the votes first, documented ties, and pools that agree with their formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loradar.guard.fusion import FUSIONS, RULES, SURROGATES, Rule, Votes, logpool, majority, mean, routed, weighted


def random_votes(seed: int, voters: int = 4, batch: int = 5, classes: int = 3) -> Votes:
    draws = torch.Generator().manual_seed(seed)
    trust = torch.rand(voters, batch, generator=draws)
    return Votes(
        log_probs=(3 * torch.randn(voters, batch, classes, generator=draws)).log_softmax(2),
        weights=torch.rand(voters, generator=draws) + 0.1,
        trust=trust / trust.sum(0),
    )


def said(*rows: list[float]) -> Tensor:
    """Voters' probabilities for one image."""
    return torch.tensor(rows)[:, None].log()


def plain(log_probs: Tensor) -> Votes:
    count = len(log_probs)
    return Votes(log_probs=log_probs, weights=torch.ones(count), trust=torch.full((count, 1), 1 / count))


@given(st.integers(0, 10_000))
def test_the_majority_has_the_most_votes_and_the_confident_side_of_a_tie(seed: int) -> None:
    given_votes = random_votes(seed)
    answers = majority(given_votes).argmax(1)
    for image in range(5):
        log_probs = given_votes.log_probs[:, image]
        votes, confidence = torch.zeros(3), torch.zeros(3)
        for voter in log_probs:
            votes[voter.argmax()] += 1
            confidence[voter.argmax()] += voter.max().exp()
        tied = votes == votes.max()
        assert answers[image] == torch.where(tied, confidence, -1.0).argmax()


def test_two_against_two_goes_to_the_surer_side() -> None:
    log_probs = said([0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.4, 0.6])
    assert majority(plain(log_probs)).argmax(1).item() == 1


def test_one_sure_voter_does_not_outvote_two() -> None:
    log_probs = said([0.51, 0.49], [0.51, 0.49], [0.0001, 0.9999])
    assert majority(plain(log_probs)).argmax(1).item() == 0
    assert mean(plain(log_probs)).argmax(1).item() == 1


def test_weights_decide_a_weighted_vote() -> None:
    log_probs = said([0.9, 0.1], [0.9, 0.1], [0.2, 0.8])
    heavy = Votes(log_probs=log_probs, weights=torch.tensor([1.0, 1.0, 5.0]), trust=torch.full((3, 1), 1 / 3))
    assert weighted(heavy).argmax(1).item() == 1
    nobody = Votes(log_probs=log_probs, weights=torch.zeros(3), trust=torch.full((3, 1), 1 / 3))
    assert weighted(nobody).isfinite().all()


@given(st.integers(0, 10_000))
def test_pools_are_distributions(seed: int) -> None:
    given_votes = random_votes(seed)
    torch.testing.assert_close(mean(given_votes).exp(), given_votes.log_probs.exp().mean(0))
    torch.testing.assert_close(logpool(given_votes).exp().sum(1), torch.ones(5))
    expected = given_votes.log_probs.exp().log().mean(0)
    torch.testing.assert_close(logpool(given_votes), expected - expected.logsumexp(1, keepdim=True))


def test_routing_hears_the_trusted_alone() -> None:
    given_votes = random_votes(1)
    answers = routed(given_votes)
    for image, voter in enumerate(given_votes.trust.argmax(0).tolist()):
        torch.testing.assert_close(answers[image], given_votes.log_probs[voter, image])


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_agrees_where_all_voters_do(rule: Rule) -> None:
    log_probs = said([0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1])
    for table in (FUSIONS, SURROGATES):
        scores = table[rule](plain(log_probs))
        assert scores.argmax(1).item() == 1
        assert scores.isfinite().all()


@pytest.mark.parametrize("rule", RULES)
def test_every_surrogate_has_a_gradient_to_every_voter_that_it_hears(rule: Rule) -> None:
    given_votes = random_votes(2)
    log_probs = given_votes.log_probs.clone().requires_grad_()
    copy = Votes(log_probs=log_probs, weights=given_votes.weights, trust=given_votes.trust)
    (grad,) = torch.autograd.grad(SURROGATES[rule](copy)[:, 0].sum(), log_probs)
    assert bool((grad.abs().sum((1, 2)) > 0).all())


@pytest.mark.parametrize("rule", RULES)
def test_a_surrogate_of_confident_voters_still_has_a_gradient(rule: Rule) -> None:
    log_probs = torch.tensor([[0.0, -60.0, -61.0]] * 3)[:, None].requires_grad_()
    scores = SURROGATES[rule](plain(log_probs))
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, torch.tensor([2])), log_probs)
    assert bool((grad.abs().sum((1, 2)) > 0.1).all())
