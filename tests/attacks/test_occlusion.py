import pytest
import torch
from torch import Tensor

from loradar.attacks import ROA, objectives
from loradar.attacks.occlusion import painted_losses
from loradar.attacks.rectangles import GREY, around, gradient_candidates, grid, most_harmful, sparse
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy
from tests.attacks.toys import Constant, Counting, Linear, Net, answers, loss_gradient, pictures


def corner(x_adv: Tensor, x: Tensor) -> list[tuple[int, int]]:
    """The upper left corner of what changed, per image."""
    changed = (x_adv != x).any(1)
    return [(int(c.any(1).nonzero()[0]), int(c.any(0).nonzero()[0])) for c in changed]


def test_gradient_candidates_are_those_of_a_loop_over_positions() -> None:
    model, x = Net().double(), pictures(4)
    y = answers(model, x)
    places = grid(x, height=3, width=2, stride=2)
    found = gradient_candidates(objectives.loss_of(model, y, cross_entropy), x, places, count=5, seed=0)
    corners = [(int(row), int(column)) for row in places.rows for column in places.columns]
    for i, image in enumerate(loss_gradient(model, x, y)):
        scores = [float(image[:, r : r + 3, c : c + 2].square().sum()) for r, c in corners]
        best = sorted(range(len(corners)), key=lambda k: -scores[k])[:5]
        assert found[i].tolist() == best


def test_tiny_gradients_are_scored() -> None:
    x = pictures(2).float()
    weights = torch.zeros(8, 8)
    weights[5, 3] = 1e-30  # its square is 0 in single precision
    places = grid(x, height=1, width=1, stride=1)
    found = gradient_candidates(lambda v: (v * weights).flatten(1).sum(1), x, places, count=1, seed=0)
    assert found.tolist() == [[5 * 8 + 3]] * 2


@pytest.mark.parametrize("search", ["exhaustive", "gradient"])
def test_position_is_the_most_harmful_of_a_loop(search: str) -> None:
    model, x = Net().double(), pictures(5)
    y = answers(model, x)
    roa = ROA(height=2, width=3, search=search, n_candidates=42, steps=1)  # type: ignore[arg-type]
    x_adv = roa(model, x, y)
    for i, (row, column) in enumerate(corner(x_adv, x)):
        losses = {}
        for r in range(7):
            for c in range(6):
                painted = x[i : i + 1].clone()
                painted[:, :, r : r + 2, c : c + 3] = GREY
                losses[r, c] = float(cross_entropy(model(painted), y[i : i + 1]).detach())
        assert losses[row, column] == pytest.approx(max(losses.values()), abs=1e-9)


def test_few_candidates_choose_among_the_highest_scores() -> None:
    """All of the gradient is in one corner: with one candidate, that is where the rectangle goes."""
    model, x = Linear(), pictures(3)
    with torch.no_grad():
        mask = torch.zeros(4, 8, 8, dtype=torch.float64)
        mask[:, 6:, 6:] = 1
        model.fc.weight *= mask.flatten()
    x_adv = ROA(height=2, width=2, n_candidates=1, steps=1)(model, x, answers(model, x))
    assert corner(x_adv, x) == [(6, 6)] * 3  # the last row and column


@pytest.mark.parametrize(
    ("size", "rectangle", "stride", "expected"), [(8, 3, 1, 6), (8, 3, 2, 4), (8, 3, 5, 2), (8, 8, 3, 1)]
)
def test_positions_reach_the_last_row_and_column(size: int, rectangle: int, stride: int, expected: int) -> None:
    x = torch.zeros(1, 1, size, size)
    places = grid(x, height=rectangle, width=rectangle, stride=stride)
    assert len(places.rows) == expected
    assert places.rows[0] == 0
    assert places.rows[-1] == size - rectangle
    masks = places.masks(torch.arange(places.count), x)
    assert (masks.sum((1, 2, 3)) == rectangle * rectangle).all()
    assert masks[-1, 0, -1, -1]


@pytest.mark.parametrize(("rows", "columns"), [(7, 6), (1, 9), (2, 2), (28, 4)])
def test_a_coarse_search_leaves_no_gap(rows: int, columns: int) -> None:
    """Around all of the sparse positions lie all positions, and both reach the edges."""
    places = grid(torch.zeros(1, 1, rows + 1, columns + 1), height=2, width=2, stride=1)
    first = sparse(places)
    assert len(set(first.tolist())) == len(first)
    assert len(first) <= ((rows + 1) // 3 + 1) * ((columns + 1) // 3 + 1)
    assert set(around(places, first[None])[0].tolist()) == set(range(places.count))


def test_a_coarse_search_looks_around_the_best() -> None:
    """The exhaustive optimum lies beside the best sparse position: found, by far fewer passes, and once per restart."""
    model, x = Net().double(), pictures(5)
    y = answers(model, x)
    coarse = ROA(height=2, width=2, search="coarse", steps=1, restarts=1)
    counting = Counting(model)
    x_adv = coarse(counting, x, y)
    places = grid(x, height=2, width=2, stride=1)
    first = painted_losses(model, x, y, places, sparse(places).expand(5, -1))
    near = around(places, sparse(places)[first.topk(3, 1).indices])
    best = painted_losses(model, x, y, places, near).amax(1)
    assert (best > first.amax(1)).any()
    for i, (row, column) in enumerate(corner(x_adv, x)):
        found = painted_losses(model, x[i : i + 1], y[i : i + 1], places, torch.tensor([[row * 7 + column]]))
        assert float(found) == pytest.approx(float(best[i]))
    assert sum(len(seen) for seen in counting.seen[:2]) < 5 * (9 + 75) + 1


def test_pgd_inside_is_the_formula() -> None:
    model, x = Net().double(), pictures(2)
    y = answers(model, x)
    x_adv = ROA(height=3, width=3, n_candidates=1, steps=4, step_size=0.2)(model, x, y)
    mask = torch.zeros_like(x, dtype=torch.bool)
    for i, (r, c) in enumerate(corner(x_adv, x)):
        mask[i, :, r : r + 3, c : c + 3] = True
    expected = torch.where(mask, 0.5, x)
    for _ in range(4):
        expected = (expected + 0.2 * loss_gradient(model, expected, y).sign() * mask).clamp(0, 1)
    torch.testing.assert_close(x_adv, expected)


def test_undecided_images_get_a_random_position() -> None:
    """All positions tie on a constant model, and where the loss is 0."""
    x = pictures(32)
    y = torch.zeros(32, dtype=torch.int64)
    for logits in ((1.0, 1.0), (1000.0, 0.0)):
        for search in ("exhaustive", "gradient"):
            roa = ROA(height=2, width=2, search=search, steps=1)
            first = corner(roa(Constant(logits), x, y), x)
            assert len(set(first)) > 12  # of 49
            assert {r for r, _ in first} == set(range(7))
            assert corner(roa(Constant(logits), x, y), x) == first
            assert corner(ROA(height=2, width=2, steps=1, seed=1)(Constant(logits), x, y), x) != first


def test_tie_rule_needs_nine_in_ten_at_the_top() -> None:
    x = pictures(2)
    losses = torch.ones(2, 20, dtype=torch.float64)
    losses[0, :2] = 0  # 18 of 20 tie at the top
    losses[1, :3] = 0  # 17 of 20
    chosen = torch.stack([most_harmful(losses, x, count=1, seed=seed)[:, 0] for seed in range(30)])
    assert len(set(chosen[:, 0].tolist())) > 5
    assert set(chosen[:, 1].tolist()) == {3}


def test_ranking_is_by_loss_and_cyclic() -> None:
    losses = torch.tensor([[0.1, 0.3, 0.2]])
    assert most_harmful(losses, pictures(1), count=5, seed=0).tolist() == [[1, 2, 0, 1, 2]]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Net().double(), pictures(3)
    y = answers(model, x)
    places = grid(x, height=3, width=3, stride=1)
    tried = torch.arange(places.count).expand(3, -1)
    whole = painted_losses(model, x, y, places, tried)
    monkeypatch.setitem(objectives._PIXELS_AT_ONCE, "cpu", 64 * 7)
    counting = Counting(model)
    torch.testing.assert_close(painted_losses(counting, x, y, places, tried), whole)
    assert max(len(seen) for seen in counting.seen) == 7
    assert not whole.requires_grad


def test_restarts_are_never_weaker_and_spare_the_fooled() -> None:
    model, x = Net().double(), pictures(8)
    y = answers(model, x)
    settings = {"height": 2, "width": 2, "steps": 2, "n_candidates": 5}
    once = ROA(**settings)(model, x, y)  # type: ignore[arg-type]
    counting = Counting(model)
    several = ROA(**settings, restarts=4)(counting, x, y)  # type: ignore[arg-type]
    loss_once, loss_several = (cross_entropy(model(adv), y) for adv in (once, several))
    fooled = answers(model, once) != y
    assert fooled.any()
    assert not fooled.all()
    assert torch.equal(several[fooled], once[fooled])
    assert (loss_several >= loss_once).all()
    assert (loss_several > loss_once).any()
    left = int((~fooled).sum())
    # after the search (two passes), two steps and the outcome of the first: only what resisted
    assert [len(seen) for seen in counting.seen[5:7]] == [left, left]


def test_restarts_take_the_next_position_and_uniform_pixels() -> None:
    model, x = Net().double(), pictures(2)
    y = torch.tensor([0, 0])
    with torch.no_grad():
        model.fc.bias[0] = 20  # never fooled
    counting = Counting(model)
    ROA(height=2, width=2, search="exhaustive", steps=1, restarts=3)(counting, x, y)
    search, starts = counting.seen[0], [counting.seen[k] for k in (1, 3, 5)]
    assert len(search) == 98
    places = grid(x, height=2, width=2, stride=1)
    losses = painted_losses(model, x, y, places, torch.arange(49).expand(2, -1))
    for k, start in enumerate(starts):
        position = losses.topk(3).indices[:, k]
        assert corner(start, x) == [(int(p) // 7, int(p) % 7) for p in position]
        inside = start[places.masks(position, x).expand_as(x)]
        assert (len(set(inside.tolist())) == 1) == (k == 0)  # grey, then uniform


def test_restarts_draw_anew() -> None:
    model, x, y = Constant((1.0, 1.0)), pictures(1), torch.tensor([0])
    counting = Counting(model)
    ROA(height=8, width=8, steps=1, restarts=3)(counting, x, y)
    assert not torch.equal(counting.seen[4], counting.seen[6])


def test_uniform_start() -> None:
    model, x = Constant((1.0, 1.0)), pictures(1)
    y = torch.tensor([0])
    grey = ROA(height=2, width=2, steps=1)(model, x, y)
    uniform = ROA(height=2, width=2, steps=1, init="uniform")(model, x, y)
    inside = (grey != x).any(1, keepdim=True).expand_as(x)
    assert (grey[inside] == GREY).all()
    assert len(set(uniform[inside].tolist())) == 12


def test_rectangle_larger_than_the_image_is_refused() -> None:
    with pytest.raises(BadConfigError, match="a rectangle of 9 x 2 does not fit an image of 8 x 8"):
        ROA(height=9, width=2)(Net(), pictures(1).float(), torch.tensor([0]))


def test_one_step_costs_what_the_method_says() -> None:
    """One gradient, the candidates in one batch, and a pass for each step: no pass for each position or image."""
    counting = Counting(Net())
    ROA(height=3, width=3, n_candidates=20, steps=3)(counting, pictures(2).float(), torch.tensor([0, 1]))
    assert [len(x) for x in counting.seen] == [2, 40, 2, 2, 2]
