from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD, BaseAttack
from loradar.attacks.objectives import fooled_by
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.types import ProgressBar
from loradar.evaluation import AccuracyResult, accuracy_row, predict, run_attack
from tests.evaluation.toys import FirstPixel, Keep, Paint, coded_images

LABELS = torch.arange(25) % 10


class Watch:
    """A progress that adds up what it is told."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def task(self, name: str, total: int, unit: str = "images") -> ProgressBar:  # noqa: ARG002
        self.total += total
        return self

    def message(self, text: str) -> None: ...

    def advance(self, amount: int = 1, note: str = "") -> None:  # noqa: ARG002
        self.done += amount


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3)
        logits[0] = torch.nan
        return logits


class Grow(BaseAttack):
    spec_name = "grow"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return x + 1


@pytest.mark.parametrize("batch_size", [1, 7, 25, 100])
def test_predict_answers_every_image_in_order(batch_size: int) -> None:
    assert torch.equal(predict(FirstPixel(), coded_images(LABELS), batch_size=batch_size), LABELS)


def test_predict_takes_batches_and_none_at_all() -> None:
    x = coded_images(LABELS)
    assert torch.equal(predict(FirstPixel(), iter([x[:20], x[20:]])), LABELS)
    assert predict(FirstPixel(), []).shape == (0,)


def test_predict_asks_in_eval_mode_and_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.9), nn.Linear(48, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(8, 3, 4, 4)
    assert torch.equal(predict(model, x), predict(model, x))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_breaks_is_wrong() -> None:
    x = torch.rand(4, 3, 4, 4)
    assert predict(Broken(), x).tolist() == [-1, 0, 0, 0]
    assert accuracy_row(Broken(), x, torch.zeros(4, dtype=torch.int64), name="broken").correct == 3


class Gives(nn.Module):
    def __init__(self, output: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.output = [output]

    def forward(self, x: Tensor) -> Tensor:
        return self.output[0](x)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ([0.0, 1.0, 2.0], 2),
        ([0.0, torch.nan, 2.0], -1),
        ([torch.inf, 0.0, 0.0], -1),
        ([torch.inf, torch.inf, 0.0], -1),
        ([torch.inf, torch.nan, 0.0], -1),
        ([-torch.inf] * 3, -1),
        ([-torch.inf, 1.0, 0.0], 1),  # a class that the model excludes
    ],
)
def test_logits_that_are_not_finite_are_no_answer(row: list[float], answer: int) -> None:
    model = Gives(lambda x: torch.tensor(row).expand(len(x), 3))
    x = torch.rand(3, 3, 4, 4)
    assert predict(model, x).tolist() == [answer] * 3
    right = accuracy_row(model, x, torch.tensor([0, 1, 2]), name="m")
    assert right.correct == (answer >= 0)
    assert fooled_by(model(x), torch.tensor([0, 1, 2])).sum() == 3 - right.correct


OUTPUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "one row": (lambda x: torch.zeros(1, 3), "for 5 images; expected a row for each"),  # noqa: ARG005
    "one row more": (lambda x: torch.zeros(len(x) + 1, 3), "for 5 images; expected a row for each"),
    "no row": (lambda x: torch.zeros(0, 3), "for 5 images"),  # noqa: ARG005
    "swapped": (lambda x: torch.zeros(3, len(x)), r"shape \(3, 5\) for 5 images; .*: transpose them"),
    "sparse": (lambda x: torch.eye(len(x), 3).to_sparse(), "layout torch.sparse_coo; expected a dense one"),
}


@pytest.mark.parametrize(("output", "says"), OUTPUTS.values(), ids=list(OUTPUTS))
def test_outputs_that_are_no_rows_of_logits(output: Callable[[Tensor], Tensor], says: str) -> None:
    x, y = torch.rand(5, 3, 4, 4), torch.arange(5) % 3
    for use in (
        lambda: accuracy_row(Gives(output), x, y, name="m"),
        lambda: predict(Gives(output), x),
        lambda: PGD(steps=1)(Gives(output), x, y),
    ):
        with pytest.raises(BadConfigError, match=says):
            use()


def test_craft_goes_batch_by_batch_and_tells_of_it() -> None:
    x, watch = coded_images(LABELS), Watch()
    x_adv = run_attack(Paint(shift=1), FirstPixel(), x, LABELS, batch_size=4, progress=watch)
    assert torch.equal(x_adv, Paint(shift=1)(FirstPixel(), x, LABELS))
    assert (watch.total, watch.done) == (25, 25)


def test_craft_gives_float32_on_the_cpu() -> None:
    assert run_attack(Keep(), FirstPixel(), coded_images(LABELS).double(), LABELS).dtype == torch.float32


def test_craft_refuses_an_attack_that_leaves_the_images() -> None:
    with pytest.raises(BadImagesError, match="expected"):
        run_attack(Grow(), FirstPixel(), coded_images(LABELS), LABELS)


def test_craft_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(BadImagesError, match="expected 25 integers"):
        run_attack(Keep(), FirstPixel(), coded_images(LABELS), LABELS[:3])


def test_batch_size_of_nothing_is_refused() -> None:
    with pytest.raises(BadConfigError, match="batch_size is 0"):
        predict(FirstPixel(), coded_images(LABELS), batch_size=0)
    with pytest.raises(BadConfigError, match="batch_size is 0"):
        run_attack(Keep(), FirstPixel(), coded_images(LABELS), LABELS, batch_size=0)


def test_accuracy_row_counts_and_says_against_what() -> None:
    x, attack = coded_images(LABELS), Paint(shift=1)
    clean = accuracy_row(FirstPixel(), x, LABELS, name="m")
    assert (clean.correct, clean.total, clean.attack, clean.threat) == (25, 25, "none", "clean")
    x_adv = run_attack(attack, FirstPixel(), x, LABELS)
    row = accuracy_row(FirstPixel(), x_adv, LABELS, name="m", attack=repr(attack), threat="adaptive", seed=3)
    assert (row.correct, row.low, row.seed, row.attack) == (0, 0.0, 3, "Paint(classes=10, shift=1)")
    assert 0.1 < row.high < 0.2


@pytest.mark.parametrize("correct", [0, 1, 3, 499, 500])
def test_a_row_holds_its_share_in_its_interval(correct: int) -> None:
    row = AccuracyResult.count(model="m", attack="none", threat="clean", correct=correct, total=500, seed=0)
    assert 0 <= row.low <= row.share <= row.high <= 1


@pytest.mark.parametrize(("correct", "total", "low"), [(3, 2, 0.0), (0, 0, 0.0), (-1, 2, 0.0), (1, 2, 0.6)])
def test_a_row_that_contradicts_itself_is_refused(correct: int, total: int, low: float) -> None:
    with pytest.raises(BadConfigError):
        AccuracyResult(
            model="m", attack="none", threat="clean", correct=correct, total=total, low=low, high=1.0, seed=0
        )
