"""A fitted adapter names images one by one as the plugged base does, all at once as the transductive head does."""

from pathlib import Path

import pytest
import torch

from loradar.adapters import feature_extractor, load, merge_weights
from loradar.core.errors import BadConfigError, BadDataError, BadFileError
from loradar.data import load_source, read_images
from loradar.fewshot import fit
from loradar.fewshot.classify import Answer, resolve, run
from loradar.fewshot.config import FewShotFitConfig
from loradar.fewshot.heads import HeadConfig, HeadKind
from loradar.fewshot.pools import base_of
from loradar.fewshot.tasks import in_order
from loradar.fewshot.transduction import Transduction
from loradar.models import load_base
from tests.data.pictures import digits_folder


def few_shot_classify(
    folder: Path, images: list[Path], *, transductive: bool = False, support: str | None = None
) -> list[Answer]:
    return run(resolve(folder, images, transductive=transductive, support=support))


def _fitted(runs: dict[str, Path], support: Path, out: Path, **changes: object) -> Path:
    config = FewShotFitConfig(support=str(support), pool=runs["resnet"], out=out, n_augmentations=1, **changes)
    fit.run(fit.resolve(config))
    return out


@pytest.mark.parametrize("kind", ["centroid", "ridge"])
def test_transductive_is_the_transductive_head_on_the_blend(
    runs: dict[str, Path], support: Path, tmp_path: Path, kind: HeadKind
) -> None:
    task = _fitted(runs, support, tmp_path / "task", head=kind, shot=2)
    pictures = sorted(support.glob("*/*.png"))
    found = few_shot_classify(task, pictures, transductive=True)
    model = feature_extractor(merge_weights(load_base(base_of(runs["resnet"])).model, load(task)))
    source = load_source(str(support), size=(32, 32))
    images = source.train
    shown = torch.cat([(images.labels == c).nonzero().squeeze(1)[:2] for c in range(3)]).sort().values
    x, y = in_order(*images.fetch(shown))
    with torch.no_grad():
        head = HeadConfig(kind=kind, transduction=Transduction())(model(x), y, 3)
        shares = head(model(read_images(pictures, size=(32, 32)))).softmax(1)
    assert [one.answer for one in found] == [source.classes[i] for i in shares.argmax(1).tolist()]
    assert [one.confidence for one in found] == pytest.approx(shares.amax(1).tolist(), abs=1e-5)
    alone = few_shot_classify(task, pictures)
    assert [one.confidence for one in alone] != [one.confidence for one in found]


def test_the_support_may_have_moved(runs: dict[str, Path], tmp_path: Path) -> None:
    place = digits_folder(tmp_path / "here", classes=3, each=3)
    task = _fitted(runs, place, tmp_path / "task")
    pictures = sorted(place.glob("*/*.png"))
    expected = few_shot_classify(task, pictures, transductive=True)
    moved = place.rename(tmp_path / "there")
    pictures = sorted(moved.glob("*/*.png"))
    with pytest.raises(
        BadDataError, match=r"task was fitted on .*there is no data .* or give the images with --support"
    ):
        few_shot_classify(task, pictures, transductive=True)
    found = few_shot_classify(task, pictures, transductive=True, support=str(moved))
    assert [one.answer for one in found] == [one.answer for one in expected]


def test_what_does_not_do_is_refused(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    task = _fitted(runs, support, tmp_path / "task")
    pictures = sorted(support.glob("*/*.png"))[:2]
    for name, classes, each in (("more classes", 4, 3), ("fewer images", 3, 2)):
        other = digits_folder(tmp_path / name, classes=classes, each=each)
        with pytest.raises(BadDataError, match=r"was fitted on 9 of digit0, digit1, digit2; give those with --support"):
            few_shot_classify(task, pictures, transductive=True, support=str(other))
    with pytest.raises(BadConfigError, match="give --transductive, or leave --support out"):
        few_shot_classify(task, pictures, support=str(support))
    with pytest.raises(BadDataError, match=r"could not read .*nothing\.png"):
        few_shot_classify(task, [tmp_path / "nothing.png"])
    with pytest.raises(BadFileError, match="no adapter of a few-shot task"):
        few_shot_classify(runs["vit"] / "pool" / "eps-8", [])
