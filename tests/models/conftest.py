"""A base small enough to build, save and open many times."""

from typing import Any

import pytest
from torch import nn

from loradar.models import Base, new_base


@pytest.fixture
def tiny() -> Base:
    """A timm network of some 60,000 parameters, four classes, fresh."""
    options: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    return new_base("timm:vit_tiny_patch16_224", num_classes=4, classes=("a", "b", "c", "d"), **options)


@pytest.fixture
def linear() -> nn.Module:
    """Images (batch, 3, 2, 2) to four logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
