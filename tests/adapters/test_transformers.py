"""Classifiers of transformers, whose logits come in a ModelOutput."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from loradar.adapters import feature_extractor, find_heads, init_adapter, merge_weights, plug
from loradar.models import Base

transformers = pytest.importorskip("transformers", reason="transformers, which peft brings, is not installed")

SMALL: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SMALL |= {"image_size": 32, "patch_size": 8, "num_labels": 5}
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_labels": 5}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "vit": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)), ("classifier",)),
    "deit": (
        lambda: transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SMALL)),
        ("cls_classifier", "distillation_classifier"),
    ),
    "resnet": (
        lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(**STAGES)),
        ("classifier.1",),
    ),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("make", "heads"), MODELS.values(), ids=list(MODELS))
def test_a_classifier_of_transformers(make: Callable[[], nn.Module], heads: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    base = Base.of(model, input_size=(3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    assert base.num_classes == 5
    assert find_heads(base.model) == heads
    adapter = init_adapter(base.model, rank=2)
    for parameter in adapter.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    logits = plug(base.model, adapter)(x)
    assert (logits - base.model(x)).abs().max() > 1e-3
    assert torch.equal(plug(model, adapter)(x).logits, logits)
    torch.testing.assert_close(merge_weights(base.model, adapter)(x), logits)
    assert feature_extractor(base.model)(x).ndim == 2
