"""What every kind of served model promises, in one table."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loradar.adapters import load, save
from loradar.core.errors import BadConfigError, BadFileError, LoradarError, WrongBaseError
from loradar.core.signing import make_keys
from loradar.fewshot.classifier import FewShotClassifier
from loradar.guard.guard import Guard
from loradar.jobs.predict import open_classifier, probabilities
from loradar.jobs.signing import sign_folder, verify_folder
from loradar.models import new_base, save_base
from loradar.serve.models import Opening, Served, open_served
from tests.serve.conftest import KINDS

TOLERANCE = 1e-5
"""How far a probability may move with the batch that an image shares, in float32."""
Library = Callable[[Path, Path], Callable[[Tensor], Tensor]]


def _job(base: Path, adapter: Path | None) -> Callable[[Tensor], Tensor]:
    return partial(probabilities, open_classifier(str(base), adapter, device="cpu"))


LIBRARY: dict[str, Library] = {
    "guard": lambda _, place: Guard.open(place, device="cpu", precision="fp32").predict_proba,
    "task": lambda _, place: FewShotClassifier.load(place).predict_proba,
    "adapter": _job,
    "base": lambda base, _: _job(base, None),
}
"""By kind: what the library gives the probabilities (n, classes) with, of a base and a place on it."""


def shares(model: Served, x: Tensor) -> Tensor:
    return torch.stack([answer.probabilities for answer in model.answer(x)])


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_library(
    kind: str, served: dict[str, Served], places: dict[str, Path], images: Tensor
) -> None:
    one, library = served[kind], LIBRARY[kind](places["base"], places[kind])
    assert one.kind == kind
    assert one.input_size == (3, 32, 32)
    for index in range(len(images)):  # alone, to the bit
        image = images[index : index + 1]
        assert torch.equal(shares(one, image), library(image))
    # in company, but for rounding
    assert torch.allclose(shares(one, images), library(images), rtol=0, atol=TOLERANCE)
    alone = torch.cat([shares(one, image[None]) for image in images])
    assert torch.allclose(shares(one, images), alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_says_whose_it_is_and_what_it_is(kind: str, served: dict[str, Served], images: Tensor) -> None:
    one = served[kind]
    answers = one.answer(images)
    assert len(answers) == len(images)
    for answer in answers:
        assert (answer.model, answer.version, answer.fingerprint) == (kind, "v1", one.fingerprint)
        assert answer.label == int(answer.probabilities.argmax())
        assert answer.probabilities.shape == (len(one.classes),)
        assert float(answer.probabilities.sum()) == pytest.approx(1, abs=1e-5)
        assert (answer.voters is None) == (answer.suspected is None) == (answer.level is None) == (kind != "guard")
    names = [f"digit {i}" if kind == "task" else str(i) for i in range(10)]
    assert list(one.classes) == names


def test_a_guard_says_what_it_suspects(served: dict[str, Served], images: Tensor) -> None:
    for answer in served["guard"].answer(images, "raised"):
        assert answer.suspected is not None
        assert answer.voters is not None
        assert set(answer.voters) == {"base", "patch", "noise"}
        assert answer.suspected[0] in ("clean", "patch", "noise", "unknown")
        assert answer.level == "raised"
    assert {answer.level for answer in served["guard"].answer(images)} == {"calm"}


def test_a_guard_at_either_level_answers_as_the_library(
    served: dict[str, Served], places: dict[str, Path], images: Tensor
) -> None:
    guard = Guard.open(places["guard"], device="cpu", precision="fp32").replace(level="raised")
    verdict = guard.predict_full(images[8:9])
    (answer,) = served["guard"].answer(images[8:9], "raised")
    assert torch.equal(answer.probabilities, verdict.logits.softmax(1)[0])
    assert bool(answer.measures) == bool(verdict.defended[0])


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprints_are_of_the_content(
    kind: str, served: dict[str, Served], places: dict[str, Path], opening: Opening, tmp_path: Path
) -> None:
    copy = shutil.copytree(places[kind], tmp_path / "elsewhere")
    again = open_served(str(copy), opening, name="copy", version="v7")
    assert again.fingerprint == served[kind].fingerprint
    assert len(again.fingerprint) == 64
    assert (again.name, again.version) == ("copy", "v7")
    others = [other.fingerprint for name, other in served.items() if name != kind]
    assert again.fingerprint not in others
    assert again.size == served[kind].size > 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_folder_is_not_served(kind: str, places: dict[str, Path], opening: Opening, tmp_path: Path) -> None:
    copy = shutil.copytree(places[kind], tmp_path / "damaged")
    weights = next(path for path in sorted(copy.rglob("*.safetensors")))
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LoradarError):
        open_served(str(copy), opening, name="x", version="v1")


def test_images_outside_their_contract_are_refused(served: dict[str, Served]) -> None:
    with pytest.raises(LoradarError):
        served["guard"].answer(torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(LoradarError, match="not finite"):
        served["base"].answer(torch.full((1, 3, 32, 32), torch.nan))


def test_an_adapter_needs_its_base_and_a_base_no_key(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="--base"):
        open_served(str(places["adapter"]), Opening(), name="x", version="v1")
    with pytest.raises(BadConfigError, match="nobody signs"):
        open_served(str(places["base"]), Opening(key=tmp_path / "key.pub"), name="x", version="v1")


@pytest.mark.parametrize("kind", ["guard", "task", "adapter"])
def test_with_a_key_only_signed_folders_are_served(
    kind: str, places: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    private, public = make_keys(tmp_path / "key")
    folder = shutil.copytree(places[kind], tmp_path / "folder")
    signed = Opening(base=str(base_folder), key=public, device="cpu", precision="fp32")
    with pytest.raises(BadFileError, match="not signed"):
        open_served(str(folder), signed, name="x", version="v1")
    sign_folder(folder, private)
    assert open_served(str(folder), signed, name="x", version="v1").fingerprint == verify_folder(folder).digest


def test_the_base_that_is_given_comes_before_the_one_that_a_folder_names(
    places: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    adapter = load(places["adapter"])
    save(adapter.with_card(data={**adapter.card.data, "base": str(tmp_path / "gone")}), folder)
    given = Opening(base=str(base_folder), device="cpu", precision="fp32")
    assert open_served(str(folder), given, name="x", version="v1").classes
    other = save_base(tmp_path / "other", new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=9))
    wrong = Opening(base=str(other), device="cpu", precision="fp32")
    with pytest.raises(WrongBaseError):  # what was given, not what could be opened least
        open_served(str(folder), wrong, name="x", version="v1")
    save(adapter.with_card(data={**adapter.card.data, "base": str(base_folder)}), folder)
    assert open_served(str(folder), wrong, name="x", version="v1").classes
    mistyped = Opening(base=str(tmp_path / "nowhere"), device="cpu", precision="fp32")
    with pytest.raises(LoradarError, match="nowhere"):
        open_served(str(folder), mistyped, name="x", version="v1")
