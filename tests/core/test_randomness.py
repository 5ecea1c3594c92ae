import pytest
import torch
from hypothesis import given

from loradar.core.randomness import generator, mix, normal, seeded_rng, uniform
from tests.core.strategies import images, patient, seeds


@patient
@given(a=seeds, b=seeds)
def test_mix_is_a_seed_that_depends_on_every_part_and_their_order(a: int, b: int) -> None:
    seed = mix(a, b)
    assert 0 <= seed < 2**63
    assert seed == mix(a, b)
    assert seed != mix(a, b + 1)
    assert seed != mix(a)
    assert (mix(b, a) == seed) == (a == b)


def test_mix_takes_negative_parts() -> None:
    assert len({mix(0, part) for part in range(-50, 50)}) == 100


def test_generators_of_nearby_seeds_are_unrelated() -> None:
    draws = torch.stack([torch.rand(1000, generator=generator(0, k)) for k in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert correlation.abs().max() < 0.15


@pytest.mark.parametrize("draw", [uniform, normal])
def test_an_image_gets_its_draws_in_whatever_batch(draw: object) -> None:
    assert callable(draw)
    x = images(0, (6, 3, 4, 4))
    together = draw(x, 7, (5, 2))
    assert together.shape == (6, 5, 2)
    assert torch.equal(draw(x[[4, 1]], 7, (5, 2)), together[[4, 1]])
    assert torch.equal(draw(x.contiguous(memory_format=torch.channels_last), 7, (5, 2)), together)
    assert not torch.equal(draw(x, 8, (5, 2)), together)
    assert not torch.equal(together[0], together[1])


def test_draws_keep_the_dtype_and_have_the_right_moments() -> None:
    x = images(1, (200, 1, 2, 2)).float()
    flat, bell = uniform(x, 0, (100,)), normal(x, 0, (100,))
    assert flat.dtype == bell.dtype == torch.float32
    assert flat.min() >= 0
    assert flat.max() < 1
    assert float(flat.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(bell.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(bell.std()) == pytest.approx(1.0, abs=0.03)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    x = images(2, (2, 3, 4, 4))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = uniform(x, 0, (3,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(uniform(x, 0, (3,)), first)


def test_forked_seeds_the_global_generator_for_the_block_alone() -> None:
    state = torch.get_rng_state()
    with seeded_rng(3):
        inside = torch.rand(2)
    with seeded_rng(3):
        assert torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="inside"), seeded_rng(3):
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), state)
