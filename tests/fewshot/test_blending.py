"""Scores and weights of a blend (section 8 of the method: zeta)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from loradar.core.errors import BadConfigError
from loradar.fewshot.blending import Blending, Scoring
from loradar.fewshot.heads import cosine_logits, prototypes_of

SCORINGS: tuple[Scoring, ...] = ("attacked", "loss")
SCORES = st.lists(st.floats(-1, 1), min_size=1, max_size=6)


@settings(deadline=None)
@given(SCORES, st.floats(0, 12), st.integers(1, 6))
def test_zeta_sums_to_one_over_the_best(scores: list[float], beta: float, top: int) -> None:
    weights = Blending(beta=beta, top=top).weights_of(torch.tensor(scores))
    assert float(weights.sum()) == pytest.approx(1)
    assert int((weights > 0).sum()) == min(top, len(scores))
    chosen = torch.tensor(scores)[weights > 0]
    assert float(chosen.min()) >= max([s for s, w in zip(scores, weights, strict=True) if w == 0], default=-1) - 1e-6


@settings(deadline=None)
@given(st.permutations(range(5)), st.integers(1, 5))
def test_permuting_the_pool_permutes_zeta(order: list[int], top: int) -> None:
    scores = torch.tensor([0.1, 0.7, 0.3, -0.2, 0.55])
    blending = Blending(beta=3.0, top=top)
    assert torch.allclose(blending.weights_of(scores[order]), blending.weights_of(scores)[order])


def test_all_members_without_sharpness_is_the_uniform_average() -> None:
    weights = Blending(beta=0.0, top=4).weights_of(torch.tensor([0.9, -0.3, 0.2, 0.1]))
    assert weights.tolist() == [0.25] * 4


def test_sharpness_by_the_formula() -> None:
    weights = Blending(beta=12.0).weights_of(torch.tensor([0.50, 0.51]))
    assert weights.tolist() == pytest.approx([0.47, 0.53], abs=0.005)


def test_a_score_by_hand() -> None:
    # unequal classes: averages give each class, not each image, the same say
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    labels = torch.tensor([0, 0, 0, 1])
    prototypes = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    close, apart = (1.0 + 0.8) / 2, (0.0 + 0.6) / 2
    assert Blending(compactness=0.6).score_of(features, labels, prototypes) == pytest.approx(0.6 * close - 0.4 * apart)
    assert Blending(compactness=1.0).score_of(features, labels, prototypes) == pytest.approx(close)


def test_a_score_by_loss_prefers_what_tells_classes_apart() -> None:
    labels, prototypes = torch.tensor([0, 0, 0, 1]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    compact = torch.tensor([[1.0, 0.9]] * 3 + [[0.9, 1.0]])
    apart = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    for by, better, worse in (("compactness", compact, apart), ("loss", apart, compact)):
        blending = Blending(score=by, compactness=1.0)  # type: ignore[arg-type]
        assert blending.score_of(better, labels, prototypes) > blending.score_of(worse, labels, prototypes)
    right = cosine_logits(apart, prototypes).log_softmax(1).gather(1, labels[:, None])
    by_hand = float((right[0] + right[3]) / 2)
    assert Blending(score="loss").score_of(apart, labels, prototypes) == pytest.approx(by_hand, abs=1e-5)


def test_bad_scores_and_much_sharpness_still_weigh() -> None:
    weights = Blending(score="loss", beta=500.0).weights_of(torch.tensor([-1.6, -1.5, -30.0]))
    assert weights.tolist() == pytest.approx([0, 1, 0], abs=1e-6)


def test_separation_is_divided_by_the_other_classes() -> None:
    way, draws = 4, torch.Generator().manual_seed(0)
    features, labels = torch.randn(12, 6, generator=draws), torch.arange(12) % way
    prototypes = prototypes_of(features, labels, way)
    similar = F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T
    others = [float((row.sum() - row[y]) / (way - 1)) for row, y in zip(similar, labels.tolist(), strict=True)]
    expected = -sum(others) / len(others)
    assert Blending(compactness=0.0).score_of(features, labels, prototypes) == pytest.approx(expected, abs=1e-5)


def test_one_shot_without_augmentation_says_nothing_of_compactness() -> None:
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    prototypes = prototypes_of(features, labels, 5)
    assert Blending(compactness=1.0).score_of(features, labels, prototypes) == pytest.approx(1)
    assert Blending(compactness=1.0).score_of(features.roll(1, 1), labels, prototypes) < 1


@pytest.mark.parametrize("wrong", [{"compactness": 1.1}, {"beta": -1.0}, {"top": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadConfigError, match="expected a compactness in"):
        Blending(**wrong)  # type: ignore[arg-type]


def test_a_score_under_attack_does_not_ask_how_close_features_lie() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    directions = torch.eye(5)[:4]
    centre = 3 * torch.eye(5)[4]
    moves = directions[labels] + 0.7 * torch.randn(40, 5, generator=draws) @ torch.diag(torch.tensor([1.0, 1, 1, 1, 0]))
    scores: dict[str, list[float]] = {}
    for spread in (0.4, 0.2):
        features, prototypes = centre + spread * moves, centre + spread * directions
        for by in SCORINGS:
            score = Blending(score=by).score_of(features, labels, prototypes)
            scores.setdefault(by, []).append(score)
    near, far = (abs(a - b) for a, b in scores.values())
    assert near < 0.05 < far
