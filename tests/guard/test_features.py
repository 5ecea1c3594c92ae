"""Statistics see what they are named for, and have gradients."""

import torch

from loradar.guard.features import block_dct, highest_energy_window, highpass, residual_statistics, vote_features
from tests.guard import toys


def test_the_basis_is_orthonormal() -> None:
    basis = block_dct().flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(64), atol=1e-5, rtol=0)


def test_a_flat_image_has_no_residual() -> None:
    torch.testing.assert_close(highpass(torch.full((1, 3, 16, 16), 0.3)), torch.zeros(1, 3, 16, 16))


def test_the_loudest_rectangle_is_where_it_was_put() -> None:
    x = toys.smooth_images(3)
    corners = highest_energy_window(toys.attacked("patch", x), window=(5, 5))
    assert bool(((corners - torch.tensor([8, 20])).abs() <= 1).all())


def test_statistics_tell_noise_and_rectangles_apart() -> None:
    x = toys.smooth_images(4)
    clean, patch, noise = (
        residual_statistics(v, window=(5, 5)) for v in (x, *(toys.attacked(k, x) for k in toys.THREATS))
    )
    assert clean.shape == (4, 50)
    assert bool((noise[:, 0] > clean[:, 0] + 1).all())
    assert bool((patch[:, 3] > noise[:, 3] + 0.5).all())


def test_noise_in_colour_is_seen_where_brightness_hides_it() -> None:
    x = 0.5 + 0.2 * torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1).clamp(
        -1, 1
    )
    noise = 0.01 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    clean, noisy = (residual_statistics(v, window=(5, 5)) for v in (x, x + noise))
    assert bool((noisy[:, 19:49] > clean[:, 19:49] + 1).all())
    assert bool((noisy[:, :19] < clean[:, :19] + 0.1).all())
    assert residual_statistics(x[:, :1], window=(5, 5)).shape == (4, 20)
    assert residual_statistics(x[:0], window=(5, 5)).shape == (0, 50)


def test_features_have_gradients() -> None:
    x = toys.smooth_images(2).requires_grad_()
    (grad,) = torch.autograd.grad(residual_statistics(x, window=(5, 5)).sum(), x)
    assert bool(grad.isfinite().all())
    assert bool(grad.any())
    log_probs = torch.randn(3, 2, 4).log_softmax(2).requires_grad_()
    features = vote_features(log_probs)
    assert features.shape == (2, 3 * 3 + 2 * 2)
    (grad,) = torch.autograd.grad(features.sum(), log_probs)
    assert bool(grad.isfinite().all())


def test_agreeing_voters_are_at_no_distance() -> None:
    log_probs = torch.randn(1, 2, 4).log_softmax(2).expand(3, -1, -1)
    torch.testing.assert_close(vote_features(log_probs)[:, 9:11], torch.zeros(2, 2))
