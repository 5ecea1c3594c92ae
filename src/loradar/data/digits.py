"""The built-in set: 1,797 handwritten digits that come with scikit-learn, real and offline."""

import torch
import torch.nn.functional as F

from loradar.data.gathering import decoded
from loradar.data.images import ImageSet
from loradar.data.source import Source

SIZE = (32, 32)


def digits_source(*, size: tuple[int, int] | None) -> Source:
    """8 x 8 grey digits, scaled to `size` (32 x 32 by default), bilinear, and repeated into three channels.

    One split: Alpaydin and Kaynak, 'Optical Recognition of Handwritten Digits', UCI 1998, as scikit-learn carries it.
    """

    def read() -> ImageSet:
        from sklearn.datasets import load_digits

        found = load_digits()
        grey = torch.from_numpy(found.images).float()[:, None] / 16  # sixteen levels above black
        large = F.interpolate(grey, size=size or SIZE, mode="bilinear", align_corners=False)
        pixels = (large * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        labels = torch.from_numpy(found.target).long()
        return decoded(pixels, labels, classes=classes, name="digits/all")

    classes = tuple(str(i) for i in range(10))
    return Source(name="digits", classes=classes, splits={"all": read})
