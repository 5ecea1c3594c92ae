"""The doors of a guard that anyone may call: labels, probabilities, and everything it found out."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from loradar.core.errors import BadConfigError, BadImagesError
from loradar.guard.guard import ABSTAINED, Guard
from tests.guard import toys


@pytest.fixture(scope="module")
def guard() -> Guard:
    return toys.guard()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return toys.traffic()


def test_labels_are_those_of_one_batch_whatever_the_batches(guard: Guard, x: Tensor) -> None:
    with torch.no_grad():
        whole = guard.verdict(x)
    for batch_size in (1, 5, 128):
        verdict = guard.predict_full(x, batch_size=batch_size)
        assert torch.equal(guard.predict(x, batch_size=batch_size), whole.answers)
        for field in dataclasses.fields(verdict):
            ours, theirs = getattr(verdict, field.name), getattr(whole, field.name)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4, equal_nan=True)
    labels, shares = guard.predict(x), guard.predict_proba(x)
    assert (labels.dtype, labels.shape) == (torch.int64, (len(x),))
    torch.testing.assert_close(shares.sum(1), torch.ones(len(x)))
    assert torch.equal(shares.argmax(1), labels)
    assert not shares.requires_grad


def test_a_guard_that_abstains_says_minus_one(guard: Guard, x: Tensor) -> None:
    confidence = guard.predict_proba(x).amax(1)
    cautious = guard.replace(abstain=float(confidence.median()))
    labels = cautious.predict(x)
    assert 0 < int((labels == ABSTAINED).sum()) < len(x)
    assert torch.equal(labels == ABSTAINED, confidence < confidence.median())


def test_an_answer_that_is_no_number_is_none(x: Tensor) -> None:
    broken = toys.guard(seed=1, cascade=False)
    broken.temperatures.fill_(torch.nan)
    assert set(broken.predict(x).tolist()) == {ABSTAINED}


KINDS = {
    "float64": lambda x: x.double(),
    "numpy": lambda x: x.numpy(),
    "numpy float64": lambda x: x.double().numpy(),
    "big-endian numpy": lambda x: x.numpy().astype(">f8"),
    "a reversed view": lambda x: x.numpy()[::-1][::-1],
    "read-only numpy": lambda x: np.frombuffer(x.numpy().tobytes(), dtype=np.float32).reshape(x.shape),
    "channels last in memory": lambda x: x.to(memory_format=torch.channels_last),
    "a leaf of a graph": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_floats_is_answered_alike(guard: Guard, x: Tensor, kind: str) -> None:
    torch.testing.assert_close(guard.predict_proba(KINDS[kind](x)), guard.predict_proba(x))  # type: ignore[no-untyped-call]


BAD = {
    "NaN": (lambda x: x.masked_fill(x == x.amax(), torch.nan), "NaN or infinite"),
    "infinite": (lambda x: x.masked_fill(x == x.amax(), torch.inf), "NaN or infinite"),
    "x255": (lambda x: x * 255, r"expected \[0, 1\]"),
    "negative": (lambda x: x - 1, r"images span \[-1"),
    "uint8": (lambda x: (x * 255).byte(), "torch.uint8; expected floats"),
    "numpy uint8": (lambda x: (x * 255).byte().numpy(), "torch.uint8; expected floats"),
    "bool": (lambda x: x > 0.5, "torch.bool; expected floats"),
    "objects": (lambda x: x.numpy().astype(object), "numpy array of object"),
    "grey": (lambda x: x[:, :1], "1x32x32; expected 3x32x32"),
    "another size": (lambda x: x[..., :28, :28], "3x28x28; expected 3x32x32 .*: resize or convert them"),
    "channels last": (lambda x: x.permute(0, 2, 3, 1).numpy(), r"32x32x3; .*: move the channels first"),
    "one image": (lambda x: x[0], r"expected \(batch, channels, height, width\); a single image is x\[None\]"),
    "flat": (lambda x: x.flatten(1), r"expected \(batch, channels, height, width\)"),
    "no image": (lambda x: x[:0], "nothing in the batch"),
    "a list": (lambda x: x.tolist(), "are a list; expected a tensor or numpy array"),
    "a path": (lambda _: "photo.png", "are a str; expected a tensor or numpy array"),
}


@pytest.mark.parametrize("kind", BAD)
def test_images_outside_the_contract_are_refused(guard: Guard, x: Tensor, kind: str) -> None:
    make, says = BAD[kind]
    for ask in (guard.predict, guard.predict_proba, guard.predict_full):
        with pytest.raises(BadImagesError, match=says) as error:
            ask(make(x))  # type: ignore[no-untyped-call]
        assert "\n" not in str(error.value)


def test_batches_have_an_image_at_least(guard: Guard, x: Tensor) -> None:
    with pytest.raises(BadConfigError, match="batch_size is 0"):
        guard.predict(x, batch_size=0)
