"""A folder of images becomes an adapter that answers, and what does not do is refused."""

from pathlib import Path
from typing import Literal, get_args

import pytest
import torch

from loradar.adapters import AdapterPool, feature_extractor, init_adapter, load, merge_weights, plug, save, verify
from loradar.attacks import PGD
from loradar.core.errors import BadConfigError, BadDataError, WrongBaseError
from loradar.core.modules import unwrap
from loradar.data import load_source
from loradar.fewshot import classify, fit
from loradar.fewshot.blending import Blending, Scoring
from loradar.fewshot.config import FewShotFitConfig
from loradar.fewshot.fit import FitJob, Fitted, run
from loradar.fewshot.heads import HeadConfig, HeadKind
from loradar.fewshot.pools import PoolModels, base_of, features_of, open_pool
from loradar.models import load_base, new_base, save_base
from tests.fewshot.made_pools import BASES, engine_of


def few_shot_fit(config: FewShotFitConfig) -> Fitted:
    return run(fit.resolve(config))


def few_shot_classify(folder: Path, images: list[Path]) -> list[classify.Answer]:
    return classify.run(classify.resolve(folder, images))


@pytest.mark.parametrize("head", ["centroid", "ridge"])
@pytest.mark.parametrize("kind", BASES)
def test_a_folder_of_images_becomes_an_adapter_that_answers(
    runs: dict[str, Path], support: Path, tmp_path: Path, kind: str, head: Literal["centroid", "ridge"]
) -> None:
    config = FewShotFitConfig(
        support=str(support), pool=runs[kind], out=tmp_path / "task", n_augmentations=1, head=head
    )
    fitted = few_shot_fit(config)
    blends = {"blend", "trim"} if fitted.weights["base"] < 1 else set()
    assert fitted.seconds.keys() == {"choice", "head", "held-out images"} | blends
    base = load_base(base_of(runs[kind])).model
    again = load(tmp_path / "task")
    assert again.card.classes == ("digit0", "digit1", "digit2")
    assert verify(tmp_path / "task", base) == []
    pictures = sorted(support.glob("*/*.png"))
    answers = few_shot_classify(tmp_path / "task", pictures)
    # the images that made the head: with random weights most, not all, are nearest to their own
    right = sum(one.answer == path.parent.name for one, path in zip(answers, pictures, strict=True))
    assert right >= 6
    images = load_source(str(support), size=(32, 32)).train
    x, _ = images.fetch(torch.arange(len(images)))
    plugged = plug(base, again)(x).argmax(1)
    assert [again.card.classes[i] for i in plugged.tolist()] == [one.answer for one in answers]
    assert all(0.2 < one.confidence <= 1 for one in answers)


@pytest.mark.parametrize("score", get_args(Scoring))
def test_a_fit_blends_as_the_evaluation_does(
    runs: dict[str, Path], support: Path, tmp_path: Path, score: Scoring
) -> None:
    place = runs["resnet"]
    settings = FewShotFitConfig(
        support=str(support), pool=place, out=tmp_path / "t", score=score, beta=50, precision="fp32"
    )
    fitted = few_shot_fit(settings)
    engine = engine_of(place, support, n_augmentations=settings.n_augmentations)
    full = Blending.of(settings, "centroid")
    assert engine.weights(full) == fitted.weights
    # the very adapter, and the very features: what is evaluated is what is shipped
    blended = engine.blended(full)
    x = engine.task.query
    assert torch.equal(features_of(blended.features, x), features_of(fitted.classifier.wrapped, x))
    with torch.no_grad():
        assert torch.equal(engine.answers([blended]), fitted.classifier(x).argmax(1))
        shipped = features_of(blended.features, x) @ engine.linear_weight(blended).T
        assert torch.allclose(shipped, fitted.classifier(x), atol=1e-5)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_a_head_without_a_bias_holds_a_task(kind: HeadKind) -> None:
    base = new_base("timm:test_resnet", num_classes=3, input_size=(3, 32, 32))
    head = base.model.get_submodule("wrapped.fc")
    assert isinstance(head, torch.nn.Linear)
    head.bias = None  # type: ignore[assignment]
    pool = AdapterPool({"only": init_adapter(base.model, target_modules="all-conv", rank=1, init="svd", head=False)})

    models = PoolModels.of(base.model, pool, n_augmentations=1)
    x, y = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3

    def fitted_under(rule: HeadConfig) -> Fitted:
        return run(FitJob(models=models, blending=Blending(head=rule), x=x, y=y, classes=("a", "b", "c")))

    fitted = fitted_under(HeadConfig(kind=kind))
    blend = feature_extractor(merge_weights(base.model, fitted.adapter))
    expected = HeadConfig(kind=kind)(blend(x), y, 3)(blend(x)).argmax(1)
    assert torch.equal(merge_weights(base.model, fitted.adapter)(x).argmax(1), expected)
    with pytest.raises(BadConfigError, match="expected a rule without `last`"):
        fitted_under(HeadConfig(last=8))


def test_without_a_pool_the_base_gets_a_head(support: Path, tmp_path: Path) -> None:
    base = str(
        save_base(tmp_path / "base", new_base("timm:test_resnet", num_classes=7, input_size=(3, 32, 32), seed=1))
    )
    fitted = few_shot_fit(FewShotFitConfig(support=str(support), base=base, out=tmp_path / "task"))
    assert fitted.weights == {}
    assert not load(tmp_path / "task").deltas
    assert [(row.model, row.attack == "none", row.total) for row in fitted.held_out] == [
        ("task", True, 9),
        ("task", False, 9),
        ("base", True, 9),
        ("base", False, 9),
    ]
    assert [row.correct for row in fitted.held_out[:2]] == [row.correct for row in fitted.held_out[2:]]
    with pytest.raises(BadConfigError, match="neither a base nor a pool"):
        few_shot_fit(FewShotFitConfig(support=str(support), out=tmp_path / "none"))


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("head", get_args(HeadKind))
def test_what_is_plugged_answers_as_what_was_evaluated(
    runs: dict[str, Path], support: Path, tmp_path: Path, kind: str, head: HeadKind
) -> None:
    settings = FewShotFitConfig(
        support=str(support), pool=runs[kind], out=tmp_path / "t", head=head, precision="fp32", robust=1
    )
    few_shot_fit(settings)
    engine = engine_of(runs[kind], support, n_augmentations=settings.n_augmentations)
    evaluated = engine.classifier([engine.blended(Blending.of(settings))])
    plugged = plug(load_base(base_of(runs[kind])).model, load(tmp_path / "t"))
    x, y = engine.task.query, engine.task.query_labels
    attack = PGD(eps=8 / 255, step_size=2 / 255, steps=5)
    left = []
    for model in (evaluated, plugged):
        x_adv = attack(model, x, y)
        with torch.no_grad():
            left.append(model(x_adv).argmax(1))
            logits = model(x)
        # a scale of probabilities: no gradient is lost in a softmax that is 1
        assert float(logits.softmax(1).max()) < 0.999
    assert torch.equal(*left)
    with torch.no_grad():
        assert torch.allclose(evaluated(x), plugged(x), atol=1e-4)


def test_the_card_tells_what_held_out_images_say(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    settings = FewShotFitConfig(support=str(support), pool=runs["resnet"], out=tmp_path / "t", shot=1)
    fitted = few_shot_fit(settings)
    said = load(tmp_path / "t").card.data["held_out"]
    # one image of a class cannot be left out: two copies of each of the three stand for them
    assert "one image" in said["flattered"] == fitted.flattered
    assert [(row["correct"], row["total"]) for row in said["rows"]] == [
        (row.correct, 6) for row in fitted.held_out if row.model == "task"
    ]


def test_a_truncated_fit_says_its_error(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    config = FewShotFitConfig(
        support=str(support), pool=runs["vit"], out=tmp_path / "task", shot=1, rank=1, score="attacked"
    )
    fitted = few_shot_fit(config)
    assert fitted.error is not None
    assert 0 < fitted.error < 1
    assert {delta.b.shape[1] for delta in load(tmp_path / "task").deltas.values()} == {1}


def test_a_fine_tuned_fit_owns_every_weight_and_answers(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    config = FewShotFitConfig(support=str(support), pool=runs["vit"], out=tmp_path / "task", fine_tune=True)
    blended = few_shot_fit(FewShotFitConfig(support=str(support), pool=runs["vit"], out=tmp_path / "blend"))
    fitted = few_shot_fit(config)
    again = load(tmp_path / "task")
    assert fitted.rate == again.card.data["fine_tuned_at_rate"]
    assert fitted.flattered == again.card.data["held_out"]["flattered"] == "the weights were tuned on the images"
    assert fitted.rate in (1e-4, 1e-3, 1e-2), "three classes of digits are learned a little better at some rate"
    assert blended.rate is None
    assert again.card.data["few_shot"] == fitted.weights == blended.weights
    base = load_base(base_of(runs["vit"])).model
    assert {name for name, _ in unwrap(base).named_parameters()} == set(again.modules_to_save)
    before, after = (dict(unwrap(merge_weights(base, one)).named_parameters()) for one in (blended.adapter, again))
    moved = [name for name in before if "head" not in name and not torch.allclose(before[name], after[name], atol=1e-5)]
    assert moved
    assert [a.answer for a in few_shot_classify(tmp_path / "task", sorted(support.glob("*/*.png")))]
    with pytest.raises(BadConfigError, match="give one of the two"):
        few_shot_fit(config.model_copy(update={"rank": 2}))


def test_a_pool_of_two_starts_is_refused(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    base = load_base(base_of(runs["vit"])).model
    for name, adapter in open_pool(runs["vit"]).items():
        delta = next(iter(adapter.deltas.values()))
        if name == "eps-8" and delta.init_factors is not None:
            delta.init_factors[0].mul_(1.01)
        save(adapter, tmp_path / "pool" / name, base)
    with pytest.raises(WrongBaseError, match="different residual weights"):
        few_shot_fit(
            FewShotFitConfig(support=str(support), pool=tmp_path, base=base_of(runs["vit"]), out=tmp_path / "t")
        )


def test_a_support_that_does_not_do_is_refused(runs: dict[str, Path], support: Path, tmp_path: Path) -> None:
    settings = {"pool": runs["vit"], "out": tmp_path / "task"}
    with pytest.raises(BadDataError, match="class 'digit0' has 3 images, 4 shots asked for"):
        few_shot_fit(FewShotFitConfig(support=str(support), shot=4, **settings))
    one = tmp_path / "one" / "only"
    one.mkdir(parents=True)
    (one / "0.png").write_bytes(next(support.glob("digit0/*.png")).read_bytes())
    with pytest.raises(BadDataError, match="has 1 class"):
        few_shot_fit(FewShotFitConfig(support=str(tmp_path / "one"), **settings))
    for name in "ab":
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(BadDataError, match=r"x\.png cannot be read as an image"):
        few_shot_fit(FewShotFitConfig(support=str(tmp_path / "broken"), **settings))
    assert not (tmp_path / "task").exists()
