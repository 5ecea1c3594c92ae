"""Twenty small architectures of different kinds through everything that an adapter goes through; see the sweep itself."""

import pytest

from benchmarks.architectures import MEMBERS, examine

CHOSEN = """
timm:test_byobnet timm:cait_xxs24_224 timm:test_convnext timm:crossvit_tiny_240 timm:dla46x_c timm:edgenext_xx_small
timm:efficientformerv2_s0 timm:test_efficientnet timm:levit_128s timm:lcnet_035 timm:test_mambaout timm:mobilevit_xxs
timm:test_coatnet timm:test_nfnet timm:repvit_m1 timm:test_resnet timm:xcit_nano_12_p8_224
timm:deit_tiny_distilled_patch16_224 torchvision:googlenet torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1
""".split()  # noqa: SIM905  # a table of names


@pytest.mark.filterwarnings("default")  # timm and torchvision warn as they like
@pytest.mark.parametrize("name", CHOSEN)
def test_an_architecture_from_a_new_adapter_to_its_features(name: str) -> None:
    assert name in MEMBERS
    row = examine(name)
    assert row.verdict == "ok", row.note
    assert row.share > 0.15
