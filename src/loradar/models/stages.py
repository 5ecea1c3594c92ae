"""A backbone whose features are those of several stages: what the last layer has dropped, a new task may need."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.modules import evaluating
from loradar.core.randomness import generator
from loradar.core.types import Images, Logits
from loradar.models.base import Base
from loradar.models.normalized import Normalized

SIDES = (4, 2)
"""The earlier and the later stage are pooled to maps of so many pixels a side."""
_LEAST_BLOCKS = 3


class MultiStageFeatures(nn.Module):
    """`backbone` with (early, late, last) features side by side before its head, where a plain one has the last alone.

    The maps of two earlier stages are pooled to `SIDES`, laid flat, and brought to the length of the last features, so that
    each counts alike in a cosine. The head is the backbone's own, with zeros for the earlier stages: the logits are the same
    but for rounding, which is tried. A ResNet (torchvision, timm) gives layer2 and layer3; a timm ViT its patches after half
    and three quarters of its blocks. Hypercolumns: Hariharan et al., 2015, section 3. Raises BadConfigError for any other
    backbone.
    """

    def __init__(self, backbone: nn.Module, *, input_size: tuple[int, int, int]) -> None:
        super().__init__()
        name = _head_of(backbone)
        head = backbone.get_submodule(name)
        kind = type(backbone).__name__
        if not isinstance(head, nn.Linear):
            wanted = "give it num_classes=N" if isinstance(head, nn.Identity) else f"its {name!r} is of several layers"
            raise BadConfigError(f"{kind} has no Linear head; {wanted}")
        self.backbone = backbone
        self.last = head.in_features
        probe = torch.rand(2, *input_size, generator=generator(0)).to(head.weight)
        with evaluating(backbone), torch.no_grad():
            setattr(backbone, name, nn.Identity())
            try:
                expected, found = backbone(probe), self.features(probe)
                self.head = self._head_like(head, found.shape[1])
                last = found[:, -self.last :]
                is_same = torch.allclose(last, expected, atol=1e-3 * float(expected.abs().max()))
            except (
                RuntimeError,
                ValueError,
            ):  # whatever a forward of its own makes of modules that are called in order
                is_same = False
        if not is_same:
            setattr(backbone, name, head)
            raise BadConfigError(
                f"{kind} does more than its modules one after the other, so its stages are not known; expected a ResNet of "
                "torchvision or timm, or a plain ViT of timm"
            )

    def _head_like(self, head: nn.Linear, width: int) -> nn.Linear:
        """`head` for `width` features, of which it ignores all but the last."""
        wider = nn.Linear(width, 1, bias=head.bias is not None)
        wider.weight = nn.Parameter(F.pad(head.weight, (width - self.last, 0)))
        if head.bias is not None:
            wider.bias = nn.Parameter(head.bias.clone())
        wider.out_features = head.out_features
        return wider

    def forward(self, x: Images) -> Logits:
        logits: Logits = self.head(self.features(x))
        return logits

    def features(self, x: Images) -> Tensor:
        """(n, width): early, late and last; the last `last` of them are the backbone's own."""
        maps, last = _of_vit(self.backbone, x) if _is_vit(self.backbone) else _of_resnet(self.backbone, x)
        # half-precision lengths would be off by more than the answers differ
        last = last.float()
        length = torch.linalg.vector_norm(last, dim=1, keepdim=True)
        flat = [F.adaptive_avg_pool2d(m.float(), side).flatten(1) for m, side in zip(maps, SIDES, strict=True)]
        return torch.cat([*(length * F.normalize(part, dim=1) for part in flat), last], 1)


def staged(base: Base) -> Base:
    """`base` with the features of several stages; what it held is taken over. Raises BadConfigError."""
    model, size = base.model, base.input_size
    stages = MultiStageFeatures(model.wrapped, input_size=size).eval()
    below = base.description.get("architecture", type(model.wrapped).__name__)
    return dataclasses.replace(
        base,
        model=Normalized(stages, model.mean.flatten().tolist(), model.std.flatten().tolist()).eval(),
        description={**base.description, "architecture": f"stages of {below}"},
    )


def _head_of(backbone: nn.Module) -> str:
    """The name of the head. Raises BadConfigError for a backbone without known stages."""
    kind = type(backbone).__name__
    if _is_resnet(backbone):
        return "fc"
    if not _is_vit(backbone):
        raise BadConfigError(f"{kind} has no stages that are known; expected a ResNet or a ViT of timm")
    if (depth := len(backbone.blocks)) < _LEAST_BLOCKS:  # type: ignore[arg-type]
        raise BadConfigError(f"{kind} has {depth} blocks; several stages need {_LEAST_BLOCKS} or more")
    return "head"


def _is_resnet(backbone: nn.Module) -> bool:
    return all(hasattr(backbone, name) for name in ("layer1", "layer2", "layer3", "layer4", "fc"))


def _is_vit(backbone: nn.Module) -> bool:
    return all(hasattr(backbone, name) for name in ("blocks", "patch_embed", "forward_intermediates", "head"))


def _of_resnet(backbone: nn.Module, x: Images) -> tuple[list[Tensor], Tensor]:
    maps = []
    # torchvision and timm register the modules of a ResNet in the order in which images go through them
    for name, module in backbone.named_children():
        if name == "fc":
            x = x.flatten(1)
        x = module(x)
        if name in ("layer2", "layer3"):
            maps.append(x)
    return maps, x


def _of_vit(backbone: nn.Module, x: Images) -> tuple[list[Tensor], Tensor]:
    depth = len(backbone.blocks)  # type: ignore[arg-type]
    taken = [depth // 2 - 1, 3 * depth // 4 - 1]
    last, maps = backbone.forward_intermediates(x, indices=taken, output_fmt="NCHW")  # type: ignore[operator]
    return maps, backbone.forward_head(last, pre_logits=True)  # type: ignore[operator]
