"""The identifier: labels it was fitted on, unknown for what is far from all of them, and files that fit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from loradar.core.errors import BadConfigError
from loradar.guard.calibration import conformal_limit, least_count
from loradar.guard.identify import Examples, Identifier, fit_identifier, fit_prior
from tests.guard.toys import examples


def clouds(count: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Four labels in three dimensions: clean, two threats, and strays."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0, 0], [6, 0, 0], [0, 6, 0], [0, 0, 6]])
    labels = torch.arange(4).repeat_interleave(count)
    return centres[labels] + torch.randn(4 * count, 3, generator=draws), labels


@pytest.fixture(scope="module")
def fitted() -> Identifier:
    features, labels = clouds(60)
    held, kinds = clouds(40, seed=1)
    return fit_identifier(examples(features, labels), examples(held, kinds), threats=("a", "b"), seed=0)


def test_it_names_what_it_knows(fitted: Identifier) -> None:
    features, labels = clouds(50, seed=2)
    posterior = fitted(features)
    torch.testing.assert_close(posterior.sum(1), torch.ones(200))
    assert float((posterior.argmax(1) == labels).float().mean()) > 0.95


def test_what_is_far_from_everything_is_unknown(fitted: Identifier) -> None:
    far = torch.tensor([[60.0, 60, -60], [-50, -50, -50], [90, 0, 0]])
    assert fitted(far).argmax(1).tolist() == [3, 3, 3]


def test_of_each_known_label_few_are_far() -> None:
    features, labels = clouds(60)
    held, kinds = clouds(400, seed=1)
    held[kinds == 1, 1:] *= 3  # one label is spread wider than the others: it must not be the one to pay
    fitted = fit_identifier(
        examples(features, labels), examples(held, kinds), threats=("a", "b"), outlier_rate=0.05, seed=0
    )
    far = fitted.distance(fitted.scaled(held)) > fitted.limits[0]
    shares = [float(far[kinds == kind].float().mean()) for kind in range(3)]
    assert shares[1] == max(shares)
    assert 0.04 < shares[1] <= 0.051


def test_the_same_seed_fits_the_same(fitted: Identifier) -> None:
    features, labels = clouds(60)
    held, kinds = clouds(40, seed=1)
    again = fit_identifier(examples(features, labels), examples(held, kinds), threats=("a", "b"), seed=0)
    assert torch.equal(again(features), fitted(features))


def test_a_label_without_images_is_refused() -> None:
    features, labels = clouds(10)
    every = examples(features, labels)
    with pytest.raises(BadConfigError, match="'b' has 0 calibration images"):
        fit_identifier(every.of(labels != 2), every, threats=("a", "b"), seed=0)


def test_tensors_that_do_not_fit_are_refused(fitted: Identifier) -> None:
    tensors = dict(fitted.state_dict())
    with pytest.raises(BadConfigError, match="weight_out has shape"):
        Identifier(("clean", "a", "unknown"), tensors)
    tensors.pop("means")
    with pytest.raises(BadConfigError, match="an identifier has the tensors"):
        Identifier(fitted.labels, tensors)


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_any_seed_fits(seed: int) -> None:
    every = examples(*clouds(8))
    found = fit_identifier(every, every, threats=("a", "b"), seed=seed)
    assert found.labels[0] == "clean"


def test_labels_count_alike_however_many_examples_they_have() -> None:
    features, labels = clouds(60)
    # 20 times as many clean images, in the same place
    more = torch.cat([features, *[features[labels == 0] + 0.01 * i for i in range(20)]])
    fitted = fit_identifier(
        examples(more, torch.cat([labels, torch.zeros(20 * 60, dtype=torch.int64)])),
        examples(features, labels),
        threats=("a", "b"),
        seed=0,
    )
    between = fitted(torch.tensor([[3.0, 0, 0], [0, 3.0, 0]]))
    assert float(between[:, 0].max()) < 0.9


def test_a_label_of_several_kinds_has_a_mean_for_each() -> None:
    features, labels = clouds(60)
    other = features[labels == 0] + torch.tensor([0.0, -30, 0])
    kinds = torch.cat([labels, torch.full((60,), 9)])
    every = Examples(
        features=torch.cat([features, other]),
        labels=torch.cat([labels, torch.zeros(60, dtype=torch.int64)]),
        kinds=kinds,
        origins=torch.arange(300),
    )
    fitted = fit_identifier(every, every, threats=("a", "b"), seed=0)
    assert len(fitted.means) == 4
    # halfway between the two kinds of clean images there are none
    near, far = fitted.distance(fitted.scaled(torch.tensor([[0.0, -30, 0], [0, -15, 0]])))
    assert float(near) < float(fitted.limits[0]) < float(far)
    assert Identifier(fitted.labels, dict(fitted.state_dict())).means.shape == (4, 3)


@settings(deadline=None)
@given(
    posterior=arrays(np.float32, st.tuples(st.integers(240, 320), st.just(4)), elements=st.floats(2**-7, 1, width=32)),
    max_fpr=st.sampled_from([0.02, 0.1, 0.3]),
    draws=st.integers(1, 2),
)
def test_a_prior_keeps_to_its_false_alarms_on_every_kind(posterior: np.ndarray, max_fpr: float, draws: int) -> None:
    found = torch.from_numpy(posterior)
    found = found[: len(found) // (8 * draws) * 8 * draws]
    found = found / found.sum(1, keepdim=True)
    n = len(found)
    # kinds 0 and 1 are clean, 2 and 3 the threats; half of the images are held out
    kinds, images = torch.arange(n) % 4, torch.arange(n) // (4 * draws)
    every = Examples(features=found, labels=torch.tensor([0, 0, 1, 2])[kinds], kinds=kinds, origins=images)
    held = images % 2 == 1
    if int(images.max() + 1) // 2 < least_count(max_fpr):
        with pytest.raises(BadConfigError, match="held-out clean images cannot keep false alarms"):
            fit_prior(found.log(), every, held, threats=("a", "b"), max_fpr=max_fpr)
        return
    prior = fit_prior(found.log(), every, held, threats=("a", "b"), max_fpr=max_fpr)
    assert set(prior) == {"a", "b", "unknown"}
    assert all(0 < times <= 1 for times in prior.values())
    named = (found.log() + torch.tensor([1, *prior.values()]).log()).argmax(1)
    for kind in (0, 1):
        rows = held & (kinds == kind)
        count = int(rows.sum()) // draws
        alarmed = float((named[rows] != 0).sum()) / draws
        # with one more image among them the share is still kept to: that is what is expected of the next one
        assert alarmed + 1 <= max_fpr * (count + 1) + 1e-6


def test_a_threat_that_looks_like_a_benign_kind_does_not_silence_the_others() -> None:
    draws = torch.Generator().manual_seed(0)
    n = 400
    kinds = torch.arange(4).repeat_interleave(n)  # two clean kinds, two threats
    scores = torch.randn(4 * n, 4, generator=draws) * 0.3
    scores[:, 0] += 4 * (kinds < 2)
    scores[kinds == 1, 1] += 6  # the second clean kind is taken for threat a
    scores[kinds == 2, 1] += 5
    scores[kinds == 3, 2] += 5
    every = Examples(
        features=scores, labels=torch.tensor([0, 0, 1, 2])[kinds], kinds=kinds, origins=torch.arange(4 * n)
    )
    held = torch.arange(4 * n) % 2 == 1
    prior = fit_prior(scores.log_softmax(1), every, held, threats=("a", "b"), max_fpr=0.02)
    named = (scores + torch.tensor([1, *prior.values()]).log()).argmax(1)
    assert float((named[(kinds == 1) & held] != 0).float().mean()) <= 0.02
    assert float((named[kinds == 3] == 2).float().mean()) > 0.98
    assert prior["a"] < prior["b"]


@pytest.mark.parametrize("draws", [1, 3])
def test_the_rate_holds_on_images_to_come(draws: int) -> None:
    """Over many calibrations the mean share of alarms on new clean images is what was asked for, or less."""
    randoms = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        # draws of one image are alike
        suspicion = torch.randn(200, 1, generator=randoms) + 0.5 * torch.randn(200, draws, generator=randoms)
        limit = conformal_limit(suspicion[:120].flatten(), 0.02, draws=draws)
        shares.append(float((suspicion[120:] > limit).float().mean()))
    assert 0.01 < sum(shares) / len(shares) < 0.022


@pytest.mark.parametrize(("rate", "least"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.3, 3), (0.005, 199), (1 / 3, 2)])
def test_a_rate_needs_its_images(rate: float, least: int) -> None:
    assert least_count(rate) == least
    scores = torch.arange(float(least))
    assert conformal_limit(scores, rate) == least - 1, "the largest of them"
    assert conformal_limit(scores[1:], rate) == math.inf
    assert conformal_limit(scores, 0) == math.inf
