import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import FIA, ascend, objectives
from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import Wrapper, capture
from loradar.core.randomness import mix, uniform
from tests.attacks.toys import Counting, Linear, Net, answers, pictures


class Centred(Wrapper):
    """A normalisation that moves 0 elsewhere, with a record of what reaches it."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.wrapped((x - 0.45) / 0.25)
        return logits


def loop(model: nn.Module, x: Tensor, y: Tensor, fia: FIA) -> Tensor:
    """The importance, one image and one mask at a time."""
    rows = []
    for i in range(len(x)):
        total = torch.zeros(())
        for mask in range(fia.n_masks):
            image = x[i : i + 1]
            keep = uniform(image, mix(fia.seed, mask), tuple(image.shape[1:])) >= fia.drop_prob
            with capture(model, fia.layer) as output:
                logits = model((image * keep).requires_grad_())
            total = total + torch.autograd.grad(logits[0, y[i]], output.value)[0]
        rows.append(-total / total.norm())
    return torch.cat(rows)


def test_importance_is_that_of_a_loop_over_masks_and_images() -> None:
    model, x = Centred(Net().double()), pictures(3)
    y = answers(model, x)
    fia = FIA(n_masks=7, seed=3)
    importance = fia._importance(model, x, y)
    torch.testing.assert_close(importance, loop(model, x, y, fia))
    torch.testing.assert_close(importance.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Net().double(), pictures(3)
    y = answers(model, x)
    whole = FIA(n_masks=5)(model, x, y)
    monkeypatch.setitem(objectives._PIXELS_AT_ONCE, "cpu", 64 * 6)
    counting = Counting(model)
    assert torch.equal(FIA(n_masks=5)(counting, x, y), whole)
    assert [len(seen) for seen in counting.seen[:3]] == [6, 6, 3]


def test_masks_drop_values_in_pixel_space_at_the_rate_said() -> None:
    counting = Counting(Centred(Net().double()))
    x = pictures(4, low=0.1)
    FIA(n_masks=20, drop_prob=0.3, steps=1)(counting, x, torch.tensor([0, 1, 2, 3]))
    masked = counting.seen[0].view(20, 4, *x.shape[1:])
    assert bool(((masked == 0) | (masked == x)).all())
    assert float((masked == 0).double().mean()) == pytest.approx(0.3, abs=0.015)
    assert not torch.equal(masked[0] == 0, masked[1] == 0)
    channels = (masked == 0).double().mean(2)
    assert bool(((channels > 0) & (channels < 1)).any())  # channel values drop each on its own


def test_ascent_lowers_the_important_features() -> None:
    model, x = Net().double(), pictures(4)
    y = answers(model, x)
    fia = FIA(n_masks=5)
    importance = fia._importance(model, x, y)
    scores = []
    for images in (x, fia(model, x, y)):
        with capture(model, "layer2") as output:
            model(images)
        scores.append((importance * output.value).flatten(1).sum(1))
    assert (scores[1] > scores[0]).all()


def test_ascends_with_momentum_from_the_image_itself() -> None:
    model, x = Net().double(), pictures(4)
    y = answers(model, x)
    fia = FIA(n_masks=5, momentum=0.8)
    importance = fia._importance(model, x, y)

    def objective(x_adv: Tensor) -> Tensor:
        with capture(model, "layer2") as output:
            model(x_adv)
        return (importance * output.value).flatten(1).sum(1)

    expected = ascend(objective, x, x, ball=fia.ball, step_size=fia.step_size, steps=fia.steps, momentum=0.8)
    assert torch.equal(fia(model, x, y), expected)
    assert not torch.equal(FIA(n_masks=5, momentum=0.0)(model, x, y), expected)


def test_labels_true_given_predicted() -> None:
    model, x = Net().double(), pictures(4)
    y = answers(model, x)
    other = (y + 1) % 5
    true = FIA(n_masks=5)(model, x, y)
    assert torch.equal(FIA(n_masks=5, label="predicted")(model, x, other), true)
    assert torch.equal(FIA(n_masks=5, label="given")(model, x, other), FIA(n_masks=5)(model, x, other))
    assert not torch.equal(FIA(n_masks=5, label="given")(model, x, other), true)


def test_confident_model_still_has_importance() -> None:
    """The softmax of such a model has no gradient; its logits do."""
    model = Net()
    with torch.no_grad():
        model.fc.weight *= 1e4
    x = pictures(2).float()
    assert (FIA(n_masks=3)._importance(model, x, answers(model, x)).flatten(1).norm(dim=1) > 0.99).all()


def test_zero_gradient_moves_nothing() -> None:
    model = Net().double()
    with torch.no_grad():
        model.fc.weight.zero_()
    x = pictures(2)
    assert torch.equal(FIA(n_masks=3)(model, x, torch.tensor([0, 1])), x)


def test_unknown_layer_is_refused_with_the_near_misses() -> None:
    with pytest.raises(BadTargetError, match="no layer 'layer9'; did you mean 'layer"):
        FIA(layer="layer9")(Net(), pictures(1).float(), torch.tensor([0]))


def test_layer_that_the_forward_pass_never_calls_is_refused() -> None:
    model = Net()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(BadTargetError, match="layer 'spare' gave no one tensor"):
        FIA(layer="spare")(model, pictures(1).float(), torch.tensor([0]))


@pytest.mark.parametrize(("drop", "says"), [(-0.1, "expected 0 or more"), (1.0, "expected below 1")])
def test_drop_is_a_probability(drop: float, says: str) -> None:
    with pytest.raises(BadConfigError, match=f"drop_prob is {drop}; {says}"):
        FIA(drop_prob=drop)


def test_the_ascent_goes_no_further_than_its_layer() -> None:
    model, x = Net().double(), pictures(3)
    y, passed = answers(model, x), []
    handle = model.fc.register_forward_hook(lambda *_: passed.append(1))
    FIA(n_masks=2, steps=6)(model, x, y)
    handle.remove()
    assert len(passed) == 1


def test_a_random_label_tells_nothing_of_the_true_one() -> None:
    model, x = Linear(classes=4), pictures(60)
    true, other = torch.zeros(60, dtype=torch.int64), torch.ones(60, dtype=torch.int64)
    fia = FIA(n_masks=2, steps=2, label="random")
    crafted = fia(model, x, true)
    assert torch.equal(crafted, fia(model, x, other))
    assert torch.equal(crafted[7:9], fia(model, x[7:9], true[7:9]))
    given = [FIA(n_masks=2, steps=2)(model, x, torch.full_like(true, label)) for label in range(4)]
    same = torch.stack([(crafted == one).flatten(1).all(1) for one in given])
    assert bool((same.sum(0) == 1).all())
    assert bool((same.sum(1) >= 6).all())  # of 60 images 15 are expected for each of 4 labels
