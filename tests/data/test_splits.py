"""Three disjoint sets and their record."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loradar.core.errors import BadDataError
from loradar.data import Source, Splits, split
from loradar.data.gathering import decoded
from loradar.data.images import DecodedImages


def _images(count: int, name: str, *, first: int = 0, classes: int = 4) -> DecodedImages:
    """Images of 2 x 2 that all differ, labels in turn."""
    codes = np.arange(first, first + count, dtype="<u4").view(np.uint8).reshape(count, 1, 1, 4)
    pixels = torch.from_numpy(codes[..., :2].repeat(3, 1).repeat(2, 2).copy())
    return decoded(pixels, torch.arange(count) % classes, classes=[str(i) for i in range(classes)], name=name)


def _source(train: int = 100, test: int | None = 20) -> Source:
    splits = {"train": partial(_images, train, "s/train")}
    if test is not None:
        splits["test"] = partial(_images, test, "s/test", first=10_000)
    return Source(name="s", classes=("0", "1", "2", "3"), splits=splits)


def _origins(splits: Splits) -> tuple[list[int], list[int], list[int]]:
    first, second, third = (s.origin.tolist() for s in (splits.train, splits.validation, splits.reported))
    return first, second, third


def test_with_a_test_split_its_first_images_are_reported() -> None:
    splits = split(_source(), train=50, validation=10, reported=5)
    train, validation, reported = _origins(splits)
    assert reported == [0, 1, 2, 3, 4]
    assert splits.reported.name == "s/test"
    assert (len(train), len(validation)) == (50, 10)
    assert not set(train) & set(validation)
    assert splits.train.name == splits.validation.name == "s/train"


def test_by_default_all_is_used() -> None:
    train, validation, reported = _origins(split(_source()))
    assert (len(train), len(validation), len(reported)) == (90, 10, 20)
    assert sorted(train + validation) == list(range(100))
    train, validation, reported = _origins(split(_source(test=None)))
    assert (len(train), len(validation), len(reported)) == (72, 8, 20)
    assert reported == sorted(reported)
    assert sorted(train + validation + reported) == list(range(100))


@pytest.mark.parametrize("test", [None, 20])
def test_the_seed_decides_and_the_number_of_training_images_moves_no_other_set(test: int | None) -> None:
    many, few, again, other = (
        split(_source(test=test), train=train, validation=9, reported=12, seed=seed)
        for train, seed in ((60, 1), (20, 1), (60, 1), (60, 2))
    )
    assert _origins(many) == _origins(again)
    assert _origins(many)[1:] == _origins(few)[1:]
    assert _origins(many)[0][:20] == _origins(few)[0]
    assert _origins(many)[1] != _origins(other)[1]


@given(st.integers(0, 2**31), st.integers(8, 40), st.integers(4, 30))
def test_without_a_test_split_classes_are_in_proportion(seed: int, reported: int, validation: int) -> None:
    splits = split(_source(test=None), reported=reported, validation=validation, seed=seed)
    train, checked, held = _origins(splits)
    assert len({*train, *checked, *held}) == len(train) + len(checked) + len(held) == 100
    for images in (splits.train, splits.validation, splits.reported):
        counts = images.labels.bincount(minlength=4)
        assert (counts - len(images) / 4).abs().max() <= 2


def test_the_record_says_how_they_came_about() -> None:
    source = _source()
    splits = split(source, train=50, validation=10, reported=5, seed=3)
    record = json.loads(json.dumps(splits.record))
    assert (record["source"], record["seed"], record["classes"]) == ("s", 3, 4)
    assert record["fingerprints"]["train"] == source.train.fingerprint
    assert record["splits"]["train"] | {"indices_sha256": ""} == {
        "from": "s/train",
        "count": 50,
        "indices_sha256": "",
        "fingerprint": splits.train.fingerprint,
    }
    assert record["duplicates"] == {"train-validation": 0, "train-reported": 0, "validation-reported": 0}
    other = split(source, train=50, validation=10, reported=5, seed=4).record
    assert other["splits"]["train"]["indices_sha256"] != record["splits"]["train"]["indices_sha256"]
    assert other["splits"]["reported"] == record["splits"]["reported"]
    assert split(_source(test=None)).record["fingerprints"]["test"] is None


def test_the_same_image_in_two_sets_is_counted() -> None:
    # the first twenty of the training split
    splits = {"train": partial(_images, 100, "s/train"), "test": partial(_images, 20, "s/test", first=0)}
    source = Source(name="s", classes=("0", "1", "2", "3"), splits=splits)
    duplicates = split(source, validation=30, reported=20).record["duplicates"]
    assert duplicates["train-validation"] == 0
    assert duplicates["train-reported"] + duplicates["validation-reported"] == 20


@pytest.mark.parametrize(
    ("test", "counts", "message"),
    [
        (20, {"reported": 21}, "21 reported images asked for, 20 are there"),
        (20, {"reported": 0}, "0 reported images"),
        (20, {"validation": 101}, "101 validation images asked for, 100 are there"),
        (20, {"validation": 0}, "0 validation images"),
        (20, {"validation": 100}, "0 training images asked for, 0 are there"),
        (20, {"validation": 40, "train": 61}, "61 training images asked for, 60 are there"),
        (20, {"train": -1}, "-1 training images"),
        (None, {"reported": 100}, "validation images asked for, 0 are there"),
    ],
)
def test_an_empty_set_is_refused_with_the_numbers(test: int | None, counts: dict[str, int], message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        split(_source(test=test), **counts)


def test_by_default_at_most_a_thousand_images_of_a_test_split_are_reported() -> None:
    assert _origins(split(_source(test=1300)))[2] == list(range(1000))
    assert len(split(_source(test=1300), reported=1200).reported) == 1200


def _ordered(sizes: tuple[int, ...]) -> Source:
    """A test split whose images are ordered by class, as folders are."""
    labels = torch.tensor([label for label, size in enumerate(sizes) for _ in range(size)])
    test = replace(_images(len(labels), "s/test", classes=len(sizes), first=10_000), labels=labels)
    train = _images(50, "s/train", classes=len(sizes))
    return Source(name="s", classes=train.classes, splits={"train": lambda: train, "test": lambda: test})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_a_test_split_that_is_ordered_by_class_is_reported_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, sum(sizes)))
    reported = split(_ordered(tuple(sizes)), reported=count).reported
    found = reported.labels.bincount(minlength=len(sizes))
    for size, number in zip(sizes, found.tolist(), strict=True):
        # half an image from rounding each class, and its share of the halves of the others
        assert abs(number - count * size / sum(sizes)) <= 0.5 + len(sizes) * size / sum(sizes) / 2 + 1e-9
    firsts = {label: sum(sizes[:label]) for label in range(len(sizes))}
    expected = [firsts[label] + i for label, number in enumerate(found.tolist()) for i in range(number)]
    assert reported.origin.tolist() == expected


@pytest.mark.parametrize("total", range(3, 16))
def test_a_handful_of_images_is_split(total: int) -> None:
    train, validation, reported = _origins(split(_source(train=total, test=None)))
    assert min(len(train), len(validation), len(reported)) >= 1
    assert sorted(train + validation + reported) == list(range(total))


def test_twelve_images_of_two_classes_have_both_in_each_large_set() -> None:
    for seed in range(20):
        splits = split(
            Source(name="s", classes=("0", "1"), splits={"all": partial(_images, 12, "s", classes=2)}), seed=seed
        )
        assert [len(s) for s in (splits.train, splits.validation, splits.reported)] == [8, 1, 3]
        assert set(splits.train.labels.tolist()) == set(splits.reported.labels.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (1, None, "s: 1 images are too few to split; expected at least 3: one to train on, .* and one to report on"),
        (2, None, "s: 2 images are too few to split"),
        (
            1,
            5,
            "s: 1 images in the training split are too few to split; expected at least 2: .* choose a checkpoint by$",
        ),
    ],
)
def test_too_few_images_say_what_each_would_be_for(train: int, test: int | None, message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        split(_source(train=train, test=test))


@pytest.mark.parametrize(
    ("test", "needed"), [(None, "3 of each class: .* and one to report on$"), (5, "2 of each class")]
)
def test_a_class_with_too_few_images_is_named(test: int | None, needed: str) -> None:
    def alone() -> DecodedImages:
        images = _images(40, "s", classes=3)
        labels = images.labels.clone()
        labels[7] = 3
        return replace(images, labels=labels)

    source = _source(test=test)
    assert split(source).warning == ""
    rare = replace(source, splits={**source.splits, "train": alone})
    for seed in range(20):
        splits = split(rare, seed=seed)
        untrained = int(3 not in splits.train.labels)
        says = (
            rf"warning: 1 of 4 classes have too few images \('3' 1\), {untrained} of them none to train on; .* {needed}"
        )
        assert re.match(says, splits.warning)
