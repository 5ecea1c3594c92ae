"""Small classifiers for the tests of the attacks: a linear one with known optima, and a convolutional one."""

import torch
from torch import Tensor, nn

from loradar.core.modules import Wrapper

SHAPE = (3, 8, 8)


class Linear(nn.Module):
    """A linear classifier of images, with the features that FIA asks for: `layer2` is a 1 x 1 convolution."""

    def __init__(self, classes: int = 2, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        channels = shape[0]
        self.layer2 = nn.Conv2d(channels, 4, 1, bias=False)
        self.fc = nn.Linear(4 * shape[1] * shape[2], classes)
        self.shape = shape
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer2(x).flatten(1))
        return logits

    def weights(self) -> Tensor:
        """(classes, C, H, W): what each logit is the inner product of the image with, but for the bias."""
        basis = torch.eye(self.shape[0] * self.shape[1] * self.shape[2], dtype=torch.float64).view(-1, *self.shape)
        with torch.no_grad():
            rows = self(basis) - self(torch.zeros_like(basis[:1]))
        weights: Tensor = rows.T.reshape(-1, *self.shape)
        return weights

    def margin_weights(self, y: Tensor) -> Tensor:
        """(batch, C, H, W), of two classes: what the wrong logit minus the right one grows along."""
        w = self.weights()
        return w[1 - y] - w[y]


class Net(nn.Module):
    """Two blocks with normalisation and dropout, so that a mode left changed shows."""

    def __init__(self, classes: int = 5, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
            self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.dropout = nn.Dropout(0.5)
            self.fc = nn.Linear(8 * 4 * 4, classes)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(self.layer2(self.layer1(x)).flatten(1)))
        return logits


class Counting(Wrapper):
    """Hands its images on, and counts them."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.wrapped(x)
        return logits


class Constant(nn.Module):
    """The same logits whatever the image; its gradient is 0 everywhere."""

    def __init__(self, logits: tuple[float, ...]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.to(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def pictures(count: int, *, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """(count, 3, 8, 8) in double precision, uniform in [low, high]."""
    draws = torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * draws


def loss_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each image's cross-entropy at the image, of the shape of `x`."""
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    return grad


def answers(model: nn.Module, x: Tensor) -> Tensor:
    """What the model says now: labels that an attack has to turn."""
    with torch.no_grad():
        return torch.as_tensor(model(x).argmax(1))
