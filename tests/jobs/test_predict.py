"""Predict: a base, and a base with an adapter, on pictures of any size."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from loradar.adapters import init_adapter, load, merge_weights, save
from loradar.core.errors import BadConfigError, BadDataError, BadImagesError, LoradarError
from loradar.data import read_images
from loradar.jobs.config import PredictConfig
from loradar.jobs.predict import PredictJob, open_classifier, resolve, run
from loradar.models import load_base


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for index, (mode, size) in enumerate([("RGB", (32, 32)), ("L", (50, 20)), ("RGBA", (7, 90))]):
        noise = torch.rand(size[1], size[0], 4, generator=torch.Generator().manual_seed(index)).mul(255).byte().numpy()
        Image.fromarray(noise, "RGBA").convert(mode).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def settings(base: Path, pictures: list[Path], **more: object) -> PredictConfig:
    return PredictConfig(base=str(base), pictures=pictures, device="cpu", **more)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_base_names_its_classes(base_folder: Path, pictures: list[Path], batch_size: int) -> None:
    results = run(resolve(settings(base_folder, pictures, top=10, batch_size=batch_size)))
    with torch.no_grad():
        shares = load_base(str(base_folder)).model(read_images(pictures, size=(32, 32))).softmax(1)
    assert [one.image for one in results] == [str(path) for path in pictures]
    for one, expected in zip(results, shares, strict=True):
        assert {name for name, _ in one.classes} == set("0123456789")
        assert [share for _, share in one.classes] == sorted((share for _, share in one.classes), reverse=True)
        for name, share in one.classes:
            assert share == pytest.approx(float(expected[int(name)]), abs=1e-5)


def test_an_adapter_answers_with_its_own_classes(base_folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    base = load_base(str(base_folder))
    adapter = init_adapter(base.model, target_modules=["all-conv"], init="svd", rank=2, seed=3)
    names = tuple(f"[class]{i}" for i in range(10))
    save(adapter.with_card(classes=names), tmp_path / "adapter")
    results = run(resolve(settings(base_folder, pictures, adapter=tmp_path / "adapter")))
    expected = merge_weights(base.model, load(tmp_path / "adapter"))(read_images(pictures, size=(32, 32))).argmax(1)
    assert [one.classes[0][0] for one in results] == [names[i] for i in expected.tolist()]


def test_an_adapter_s_folder_names_its_base(base_folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    adapter = init_adapter(load_base(str(base_folder)).model, target_modules=["all-conv"], rank=2)
    save(adapter.with_card(data={"base": str(base_folder)}), tmp_path / "named")
    found = [
        run(resolve(PredictConfig(base=base, adapter=tmp_path / "named", pictures=pictures, device="cpu")))
        for base in (None, str(base_folder))
    ]
    assert found[0] == found[1]
    assert str(base_folder) not in (tmp_path / "named" / "README.md").read_text()  # which is what push sends
    save(adapter.with_card(data={"base": str(tmp_path / "gone")}), tmp_path / "moved")
    for place, says in (
        ("moved", "names its base .*gone.*: there is no base .* or give the base with --base"),
        (None, "base is missing"),
    ):
        config = PredictConfig(adapter=tmp_path / place if place else None, pictures=pictures, device="cpu")
        with pytest.raises(LoradarError, match=says):
            resolve(config)


def test_an_adapter_gets_pictures_of_the_size_that_it_was_trained_at(base_folder: Path, tmp_path: Path) -> None:
    adapter = init_adapter(load_base(str(base_folder)).model, target_modules=["all-conv"], rank=2)
    folder = save(adapter.with_card(data={"base": str(base_folder), "input_size": [3, 48, 40]}), tmp_path / "larger")
    for base in (None, str(base_folder)):
        assert open_classifier(base, folder, device="cpu").size == (48, 40)


def test_more_than_there_are_is_all(base_folder: Path, pictures: list[Path]) -> None:
    assert len(run(resolve(settings(base_folder, pictures[:1], top=99)))[0].classes) == 10


class Nothing(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(
    ("logits", "error", "says"),
    [
        (torch.full((1, 2), torch.nan), BadImagesError, "not finite"),
        (torch.zeros(1, 3), BadConfigError, "2 classes"),
    ],
)
def test_a_model_without_an_answer_is_refused(
    logits: torch.Tensor, error: type[LoradarError], says: str, pictures: list[Path]
) -> None:
    job = PredictJob(model=Nothing(logits), classes=("a", "b"), size=(8, 8), pictures=pictures)
    with pytest.raises(error, match=says):
        run(job)


def test_a_picture_that_is_none_is_named(base_folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(BadDataError, match=r"no\.png"):
        run(resolve(settings(base_folder, [*pictures, tmp_path / "no.png"])))
