"""The doors of a guard that anyone may call: labels, probabilities, and everything it found out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import loradar
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
    "sparse": (lambda x: x.to_sparse(), r"layout torch.sparse_coo; expected a dense tensor of values: x.to_dense\(\)"),
    "meta": (lambda x: x.to("meta"), "device 'meta', which holds no values"),
    "a path": (lambda _: "photo.png", "are a str; expected a tensor or numpy array"),
}


@pytest.mark.parametrize("kind", BAD)
def test_images_outside_the_contract_are_refused(guard: Guard, x: Tensor, kind: str) -> None:
    make, says = BAD[kind]
    for ask in (guard.predict, guard.predict_proba, guard.predict_full, guard.verdict, guard):
        with pytest.raises(BadImagesError, match=says) as error:
            ask(make(x))  # type: ignore[no-untyped-call]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_call_takes_every_kind_of_floats_too(guard: Guard, x: Tensor, kind: str) -> None:
    torch.testing.assert_close(guard(KINDS[kind](x)), guard(x))  # type: ignore[no-untyped-call]


def test_the_call_hands_its_gradient_on(guard: Guard, x: Tensor) -> None:
    leaf = x.double().requires_grad_()
    guard(leaf).sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad.abs().max()) > 0


@pytest.mark.parametrize("kind", ["NaN", "infinite", "x255", "negative", "uint8", "bool", "grey", "another size"])
def test_an_exported_guard_refuses_them_too(exported: torch.nn.Module, x: Tensor, kind: str) -> None:
    make, _ = BAD[kind]
    with pytest.raises((RuntimeError, AssertionError)):
        exported(make(x))  # type: ignore[no-untyped-call]


def test_an_exported_guard_says_what_is_wrong(exported: torch.nn.Module, guard: Guard, x: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"NaN, or values outside \[0, 1\]; expected floats"):
        exported(-x)
    torch.testing.assert_close(exported(x[:1]), guard(x[:1]), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def exported(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    path = loradar.export(guard, tmp_path_factory.mktemp("export") / "guard.pt2")
    return torch.export.load(path).module()


def test_where_a_runtime_has_no_assertions_such_logits_are_no_numbers(guard: Guard, x: Tensor, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(loradar.export(guard, tmp_path / "guard.onnx")))
    x = x[:3].clone()
    x[1, 0, 0, 0], x[2, 0, 0, 0] = torch.nan, 2.0
    (logits,) = session.run(None, {"images": x.numpy()})
    assert np.isnan(logits).all(1).tolist() == [False, True, True]


def test_batches_have_an_image_at_least(guard: Guard, x: Tensor) -> None:
    with pytest.raises(BadConfigError, match="batch_size is 0"):
        guard.predict(x, batch_size=0)
