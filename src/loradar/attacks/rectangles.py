"""Where a rectangle may lie in an image, and which positions harm a classifier most. The search half of ROA."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from loradar.attacks.objectives import Objective, gradient
from loradar.core.errors import BadConfigError
from loradar.core.randomness import uniform
from loradar.core.types import Images

GREY = 0.5
# apart in a coarse search, as positions of the grid
_COARSE = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All positions of a rectangle in an image: the upper left corners, as rows (n,) and columns (m,).

    Position `i` of the n * m lies at `rows[i // m], columns[i % m]`.
    """

    height: int
    width: int
    rows: Tensor
    columns: Tensor

    @property
    def count(self) -> int:
        return len(self.rows) * len(self.columns)

    def masks(self, positions: Tensor, x: Images) -> Tensor:
        """(k, 1, height, width) bool of the images' size, True inside. `positions` is (k,)."""
        top = self.rows[positions // len(self.columns)][:, None]
        left = self.columns[positions % len(self.columns)][:, None]
        row, column = (torch.arange(size, device=x.device) for size in x.shape[2:])
        inside_rows = (row >= top) & (row < top + self.height)
        inside_columns = (column >= left) & (column < left + self.width)
        return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]


def grid(x: Images, *, height: int, width: int, stride: int) -> Grid:
    """Every `stride`-th position, and the last row and column in any case.

    Raises BadConfigError where the rectangle is larger than the image.
    """
    if height > x.shape[2] or width > x.shape[3]:
        raise BadConfigError(f"a rectangle of {height} x {width} does not fit an image of {x.shape[2]} x {x.shape[3]}")
    rows, columns = (_corners(a, b, stride, x) for a, b in ((x.shape[2], height), (x.shape[3], width)))
    return Grid(height=height, width=width, rows=rows, columns=columns)


def _corners(image: int, rectangle: int, stride: int, x: Images) -> Tensor:
    last = image - rectangle
    corners = list(range(0, last + 1, stride))
    return torch.tensor(corners if corners[-1] == last else [*corners, last], device=x.device)


def sparse(places: Grid) -> Tensor:
    """(k,) every third position of each row and column, the last of both too."""
    rows, columns = (_corners(len(corners) - 1, 0, _COARSE, corners) for corners in (places.rows, places.columns))
    return (rows[:, None] * len(places.columns) + columns).flatten()


def around(places: Grid, positions: Tensor) -> Tensor:
    """(batch, n) the positions that `sparse` left out around each of `positions` (batch, k); those at the edge repeat."""
    near = torch.arange(1 - _COARSE, _COARSE, device=positions.device)
    rows = (positions // len(places.columns))[..., None] + near
    columns = (positions % len(places.columns))[..., None] + near
    rows, columns = rows.clamp(0, len(places.rows) - 1), columns.clamp(0, len(places.columns) - 1)
    return (rows[..., :, None] * len(places.columns) + columns[..., None, :]).flatten(1)


def gradient_candidates(objective: Objective, x: Images, places: Grid, *, count: int, seed: int) -> Tensor:
    """(batch, count) positions of the largest sum of squared gradient of `objective` inside the rectangle.

    At random for an image whose gradient is zero.
    """
    grad = gradient(objective, x)
    largest = grad.abs().amax((1, 2, 3), keepdim=True)
    # divide first: the squares of a confident model's gradients underflow
    energy = (grad / largest.clamp_min(torch.finfo(grad.dtype).tiny)).square().sum(1, keepdim=True)
    sums = F.avg_pool2d(energy, (places.height, places.width), stride=1, divisor_override=1)
    scores = sums[:, 0, places.rows][:, :, places.columns].flatten(1)
    scores = torch.where(largest[:, 0, 0] == 0, uniform(x, seed, (places.count,)), scores)
    return scores.topk(min(count, places.count), dim=1).indices


def most_harmful(losses: Tensor, x: Images, *, count: int, seed: int) -> Tensor:
    """(batch, count) indices into the painted positions of `losses` (batch, positions), highest loss first, cyclic.

    At random where at least 90 % of the positions tie at the highest loss; so also where that is 0, the least there is.
    """
    positions = losses.shape[1]
    best = losses.amax(1, keepdim=True)
    undecided = (losses == best).sum(1, keepdim=True) >= 0.9 * positions
    ranked = losses.argsort(dim=1, descending=True, stable=True)
    ranked = ranked[:, torch.arange(count, device=x.device) % positions]
    drawn = (uniform(x, seed, (count,)) * positions).long().clamp_max(positions - 1)
    return torch.where(undecided, drawn, ranked)
