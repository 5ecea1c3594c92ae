"""Tasks: deterministic, disjoint, and refused where the set is too small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loradar.core.errors import BadConfigError, BadDataError
from loradar.fewshot.episode import Episode, FixedEpisodes, Sampler, VariableEpisodes, parse_setting


def labels_of(*sizes: int) -> Tensor:
    """Classes of these sizes, mixed."""
    labels = torch.cat([torch.full((size,), i * 3) for i, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


def check(episode: Episode, labels: Tensor) -> None:
    assert not set(episode.support.tolist()) & set(episode.query.tolist())
    assert len(set(episode.classes)) == episode.way
    for images, own in ((episode.support, episode.support_labels), (episode.query, episode.query_labels)):
        assert len(set(images.tolist())) == len(images)
        assert torch.equal(torch.tensor(episode.classes)[own], labels[images])


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**40), st.integers(0, 2**60))
def test_fixed_tasks_have_what_was_asked_for(way: int, shot: int, query: int, seed: int, index: int) -> None:
    labels = labels_of(9, 10, 11, 12, 9, 30)
    episode = FixedEpisodes(way=way, shot=shot, query=query)(labels, index=index, seed=seed)
    check(episode, labels)
    assert torch.bincount(episode.support_labels).tolist() == [shot] * way
    assert torch.bincount(episode.query_labels).tolist() == [query] * way


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(2, 120), min_size=5, max_size=70), st.integers(0, 2**40))
def test_variable_tasks_keep_to_their_limits(sizes: list[int], seed: int) -> None:
    labels = labels_of(*sizes)
    episode = VariableEpisodes()(labels, index=0, seed=seed)
    check(episode, labels)
    assert 5 <= episode.way <= min(50, len(sizes))
    assert len(episode.support) <= 500
    queries, shots = torch.bincount(episode.query_labels), torch.bincount(episode.support_labels)
    counts = torch.tensor([int((labels == c).sum()) for c in episode.classes])
    assert set(queries.tolist()) == {min(10, int(counts.min()) // 2)}
    assert bool((shots >= 1).all())
    assert bool((shots + queries <= counts).all())


@pytest.mark.parametrize("sampler", [FixedEpisodes(), VariableEpisodes()])
def test_a_task_is_a_function_of_its_number_and_seed(sampler: Sampler) -> None:
    labels = labels_of(*[20] * 8)
    first, again = (sampler(labels, index=3, seed=7) for _ in range(2))
    assert torch.equal(first.support, again.support)
    assert torch.equal(first.query, again.query)
    assert any(not torch.equal(first.query, sampler(labels, index=i, seed=7).query) for i in (4, 5))
    state = torch.get_rng_state()
    sampler(labels, index=9, seed=7)
    assert torch.equal(state, torch.get_rng_state())


def test_the_first_queries_do_not_depend_on_how_many_there_are() -> None:
    labels = labels_of(*[20] * 5)
    few, many = (FixedEpisodes(shot=2, query=q)(labels, index=0, seed=0) for q in (3, 9))
    for label in range(5):
        assert torch.equal(few.query[few.query_labels == label], many.query[many.query_labels == label][:3])


def test_a_group_stays_on_one_side() -> None:
    labels = labels_of(*[24] * 5)
    groups = torch.arange(len(labels)) % 8
    for index in range(10):
        episode = FixedEpisodes(shot=2, query=4)(labels, index=index, seed=0, groups=groups)
        for label in range(5):
            support = groups[episode.support[episode.support_labels == label]]
            query = groups[episode.query[episode.query_labels == label]]
            assert not set(support.tolist()) & set(query.tolist())
    with pytest.raises(BadDataError, match="of other groups than its 2 shots"):
        FixedEpisodes(shot=2, query=4)(labels, index=0, seed=0, groups=torch.zeros(len(labels)))


@pytest.mark.parametrize(
    ("sampler", "sizes", "says"),
    [
        (FixedEpisodes(way=5), [20] * 4, "5 classes a task asked for, 4 are there"),
        (FixedEpisodes(shot=5, query=1), [5] * 5, "has 5 images; a task of 5 shots needs 5 and one to ask about"),
        (FixedEpisodes(shot=5, query=10), [14] * 5, "needs 15: ask for fewer"),
        (VariableEpisodes(), [20, 20, 1, 1, 1], "5 classes of 2 images a task asked for, 2 are there"),
    ],
)
def test_a_set_that_is_too_small_is_said(sampler: Sampler, sizes: list[int], says: str) -> None:
    with pytest.raises(BadDataError, match=says):
        sampler(labels_of(*sizes), index=0, seed=0)


def test_settings_by_name() -> None:
    assert parse_setting("20w3s", query=4) == FixedEpisodes(way=20, shot=3, query=4)
    assert parse_setting("variable", query=4) == VariableEpisodes(query=4)
    for wrong in ("5w", "5-1", "w1s", "5w1", "5w1s!"):
        with pytest.raises(BadConfigError, match="expected WAYwSHOTs"):
            parse_setting(wrong, query=4)
    with pytest.raises(BadConfigError, match="expected 2 classes"):
        parse_setting("1w1s", query=4)
