"""One pass and chunks: the same features and gradients, one pass where it fits, and the memory that decides."""

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loradar.adapters import feature_extractor
from loradar.attacks import FIA, PGD
from loradar.fewshot import chunks
from loradar.fewshot.blending import Blending, attacked_score
from loradar.fewshot.chunks import images_at_once, in_chunks, memory_bound
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.episode import Episode
from loradar.fewshot.heads import CENTROID, HeadConfig, MeanLogits, TaskClassifier
from loradar.fewshot.meta_train import _clean_loss, _robust_loss
from loradar.fewshot.pools import features_of
from loradar.fewshot.tasks import Task
from loradar.fewshot.transduction import Transduction
from loradar.models import new_base

TINY = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}
BASES: dict[str, dict[str, Any]] = {
    "timm:vit_small_patch16_224": TINY,
    "timm:vit_base_patch16_siglip_224": TINY,
    "timm:test_resnet": {},  # with batch normalisation
}
SHOWN = torch.tensor([0, 1, 0, 1, 1])


def extractor(architecture: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    base = new_base(architecture, num_classes=0, input_size=(3, 32, 32), **BASES[architecture]).model.to(dtype)
    return feature_extractor(base).eval()


def make_task(dtype: torch.dtype = torch.float64) -> tuple[Task, Tensor]:
    """Five images to show, five to ask for, and these attacked."""
    generator = torch.Generator().manual_seed(0)
    support, query, noise = torch.rand(3, 5, 3, 32, 32, generator=generator, dtype=dtype)
    every = torch.arange(5)
    episode = Episode(classes=(0, 1), support=every, support_labels=SHOWN, query=every, query_labels=SHOWN)
    return Task(episode=episode, support=support, query=query), (query + noise / 10).clamp(0, 1)


def three_images(model: nn.Module) -> float:
    """The memory bound that three images of 32 pixels fit."""
    return 3.5 * chunks._bytes_kept(model, torch.rand(1, 3, 32, 32, dtype=next(model.parameters()).dtype))


@pytest.mark.parametrize("head", ["centroid", "ridge", "clean"])
@pytest.mark.parametrize("architecture", BASES)
def test_gradients_of_meta_training_are_equal(architecture: str, head: str) -> None:
    model, (task, x_adv) = extractor(architecture).requires_grad_(True), make_task()
    weights = [weight for weight in model.parameters() if weight.numel()]
    config = MetaTuneConfig(base="base", data="digits")
    calls: list[int] = []
    model.register_forward_pre_hook(lambda _model, args: calls.append(len(args[0])))

    def value_and_gradients() -> list[Tensor]:
        x_adv.requires_grad_()
        loss = (
            _clean_loss(model, task, CENTROID)
            if head == "clean"
            else _robust_loss(model, task, x_adv, HeadConfig(kind=head), config)  # type: ignore[arg-type]
        )
        found = torch.autograd.grad(loss, [*weights, x_adv], materialize_grads=True, allow_unused=True)
        return [loss.detach(), *found]

    whole = value_and_gradients()
    count = 10 if head == "clean" else 15
    assert calls == [1, count]  # the image whose memory is measured, then one pass
    calls.clear()
    with memory_bound(three_images(model)):
        chunked = value_and_gradients()
    assert max(calls) == 3
    assert sum(calls) == 1 + 2 * count  # every image twice: for its features, and for the gradient
    for one, other in zip(whole, chunked, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12 * float(one.abs().max()) + 1e-15)
    assert any(bool(one.any()) for one in whole[1:])


@pytest.mark.parametrize("rule", [HeadConfig(), HeadConfig(kind="ridge", transduction=Transduction())])
def test_an_attack_is_the_same(rule: HeadConfig) -> None:
    """Also on a head that answers all queries together, and through the mean of several classifiers."""
    task, _ = make_task(torch.float32)
    models = [extractor(name, torch.float32).requires_grad_(False) for name in ("timm:vit_small_patch16_224",) * 2]
    classifier = MeanLogits([TaskClassifier.of(m, rule, task.support, SHOWN, 2) for m in models])
    attack = PGD(eps=8 / 255, step_size=2 / 255, steps=2)
    whole = attack(classifier, task.query, SHOWN)
    sizes: list[int] = []
    models[0].register_forward_hook(lambda _model, args, _out: sizes.append(len(args[0])))
    with memory_bound(2 * three_images(models[0])):
        chunked = attack(classifier, task.query, SHOWN)
    assert max(sizes) == 3
    # the sign of a gradient that is 0 but for rounding may differ
    assert float(((whole - chunked).abs() > 1e-6).float().mean()) < 1e-3


def test_features_and_scores_are_the_same() -> None:
    task, _ = make_task(torch.float32)
    model = extractor("timm:test_resnet", torch.float32).requires_grad_(False)
    whole = features_of(model, task.support)
    assert torch.equal(whole, model(task.support))
    scored = attacked_score(Blending(score="attacked"), model, task.support, task.query, SHOWN, 2)
    with memory_bound(three_images(model)):
        assert torch.allclose(features_of(model, task.support), whole, atol=1e-6)
        again = attacked_score(Blending(score="attacked"), model, task.support, task.query, SHOWN, 2)
    assert again == pytest.approx(scored, abs=1e-4)


def test_moving_statistics_get_one_pass() -> None:
    model, (task, _) = extractor("timm:test_resnet").train(), make_task()
    with memory_bound(1):
        found = in_chunks(model, task.support)
    assert torch.allclose(found, extractor("timm:test_resnet").train()(task.support))
    assert not torch.allclose(found, model.eval()(task.support))


def test_measuring_draws_nothing_and_counts_the_mode() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.Dropout(0.5)), torch.rand(4, 3, 2, 2)
    kept = {}
    for mode in (False, True):
        model.train(mode)
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        assert torch.equal(in_chunks(model, x), expected)
        kept[mode] = chunks._bytes_kept(model, x[:1])
    assert kept[True] > kept[False]


def test_memory_is_counted_per_image_and_halved_between_two() -> None:
    model, x = extractor("timm:test_resnet", torch.float32), torch.rand(9, 3, 32, 32)
    assert images_at_once(model, x) > 100
    kept = chunks._bytes_kept(model, x[:1])
    # at least what goes into its first convolution and what comes out of it
    assert kept > 4 * (3 + 16) * 32 * 32 / 4
    with memory_bound(8 * kept):
        assert images_at_once(model, x) == 8
        with memory_bound(parts=2):
            assert images_at_once(model, x) == 4
    with memory_bound(math.inf):
        assert images_at_once(model, x) > 10**9
    with memory_bound(0):
        assert images_at_once(model, x) == 1


def test_a_small_vit_of_large_images_takes_a_few_at_once() -> None:
    model = feature_extractor(
        new_base("timm:vit_small_patch14_dinov2", num_classes=0, img_size=518, depth=1).model
    ).requires_grad_(False)
    per_block = chunks._bytes_kept(model, torch.rand(1, 3, 518, 518))
    # of 12 blocks, 64 images would keep 16 GiB: they pass in chunks
    assert 12 * 64 * per_block > 8 * 2**30
    assert images_at_once(model, torch.rand(1, 3, 518, 518)) < 12 * 64


def test_an_attack_that_reads_a_layer_reads_it_whole() -> None:
    """What `capture` keeps of a chunked pass would be the first chunk's."""
    from loradar.fewshot.engine import TaskModel
    from loradar.fewshot.methods import _crafted

    class Engine:
        def classifier(self, models: list[TaskModel]) -> nn.Module:
            (one,) = models
            return TaskClassifier.of(one.features, one.head, task.support, SHOWN, 2)

    task, _ = make_task(torch.float32)
    model = extractor("timm:test_resnet", torch.float32).requires_grad_(False)
    attack = FIA(steps=2, n_masks=2)
    one = TaskModel(name="base", features=model, is_fixed=True)
    whole = attack(TaskClassifier.of(model, CENTROID, task.support, SHOWN, 2), task.query, SHOWN)
    with memory_bound(three_images(model)):
        split = _crafted(Engine(), [one], attack, task.query, SHOWN)  # type: ignore[arg-type]
    assert split.shape == whole.shape
    assert float(((whole - split).abs() > 1e-6).float().mean()) < 1e-2


def test_counting_keeps_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Flatten())  # a sigmoid keeps its own output
    alive = weakref.ref(model)
    outputs: list[weakref.ref[torch.Tensor]] = []
    model[1].register_forward_hook(lambda _module, _args, output: outputs.append(weakref.ref(output)))
    assert images_at_once(model, torch.rand(2, 3, 16, 16)) > 0
    assert outputs
    assert all(output() is None for output in outputs)
    del model
    gc.collect()
    assert alive() is None
