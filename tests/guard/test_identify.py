"""The identifier: labels it was fitted on, unknown for what is far from all of them, and files that fit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from loradar.core.errors import BadConfigError
from loradar.guard.identify import Identifier, fit_identifier, fit_prior


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
    return fit_identifier(features, labels, threats=("a", "b"), held=held[:120], held_labels=kinds[:120], seed=0)


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
    (held, _), kinds = clouds(400, seed=1), torch.arange(3).repeat_interleave(400)
    held = held[:1200]
    held[kinds == 1, 1:] *= 3  # one label is spread wider than the others: it must not be the one to pay
    fitted = fit_identifier(
        features, labels, threats=("a", "b"), held=held, held_labels=kinds, outlier_rate=0.05, seed=0
    )
    shares = [float(fitted.is_outlier(held[kinds == kind]).float().mean()) for kind in range(3)]
    assert shares[1] == max(shares)
    assert 0.04 < shares[1] <= 0.051


def test_the_same_seed_fits_the_same(fitted: Identifier) -> None:
    features, labels = clouds(60)
    held, kinds = clouds(40, seed=1)
    again = fit_identifier(features, labels, threats=("a", "b"), held=held[:120], held_labels=kinds[:120], seed=0)
    assert torch.equal(again(features), fitted(features))


def test_a_label_without_images_is_refused() -> None:
    features, labels = clouds(10)
    with pytest.raises(BadConfigError, match="'b' has 0 calibration images"):
        fit_identifier(
            features[labels != 2], labels[labels != 2], threats=("a", "b"), held=features, held_labels=labels, seed=0
        )


def test_tensors_that_do_not_fit_are_refused(fitted: Identifier) -> None:
    tensors = dict(fitted.state_dict())
    with pytest.raises(BadConfigError, match="weight_out has shape"):
        Identifier(("clean", "a", "unknown"), tensors)
    tensors.pop("means")
    with pytest.raises(BadConfigError, match="an identifier has the tensors"):
        Identifier(fitted.labels, tensors)


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_any_seed_fits(seed: int) -> None:
    features, labels = clouds(8)
    held, kinds = features[:24], labels[:24]
    found = fit_identifier(features, labels, threats=("a", "b"), held=held, held_labels=kinds, seed=seed)
    assert found.labels[0] == "clean"


@given(
    posterior=arrays(np.float32, st.tuples(st.integers(240, 320), st.just(4)), elements=st.floats(2**-7, 1, width=32)),
    max_fpr=st.sampled_from([0.02, 0.1, 0.3]),
)
def test_a_prior_keeps_to_its_false_alarms(posterior: np.ndarray, max_fpr: float) -> None:
    found = torch.from_numpy(posterior)
    found = found / found.sum(1, keepdim=True)
    kinds = torch.arange(len(found)) % 3
    prior = fit_prior(found, kinds, max_fpr=max_fpr)
    assert 1 / max_fpr >= prior["clean"] >= 1 >= prior["unknown"] >= max_fpr
    odds = torch.tensor([prior["clean"], 1, 1, prior["unknown"]]).log()
    weighted = (found.log() + odds).log_softmax(1)
    if prior["clean"] < 1 / max_fpr:
        assert int((weighted.argmax(1)[kinds == 0] != 0).sum()) <= max_fpr / 2 * int((kinds == 0).sum())
    if prior["unknown"] > max_fpr:
        attacked = weighted[:, 1:].argmax(1)[kinds > 0]
        assert int((attacked == 2).sum()) <= max_fpr * len(attacked)


def test_one_odd_image_among_few_does_not_silence_the_names() -> None:
    posterior = torch.tensor([[0.9, 0.05, 0.05]] * 20 + [[1e-9, 1.0, 1e-9]] + [[0.01, 0.98, 0.01]] * 20)
    kinds = torch.tensor([0] * 21 + [1] * 20)
    prior = fit_prior(posterior, kinds, max_fpr=0.08)
    assert prior == {"clean": pytest.approx(12.5), "unknown": 1.0}
    assert bool(((posterior[21:] * torch.tensor([12.5, 1, 1])).argmax(1) == 1).all())
