"""Robust accuracy in the training of transformers and of Lightning: logged, and nothing else is changed by it."""

import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.randomness import seeded_rng
from loradar.evaluation import correct, run_attack
from loradar.integrations import lightning_callback, trainer_callback
from loradar.models import wrap

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
SIZE: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SIZE |= {"image_size": 8, "patch_size": 4, "num_labels": 5, "hidden_dropout_prob": 0.2}
Run = Callable[..., tuple[nn.Module, list[dict[str, float]]]]
pytestmark = pytest.mark.filterwarnings("default")


def made(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and labels that can be learnt: a class is a row that is bright."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 5
    x = 0.5 * torch.rand(count, 3, 8, 8, generator=draw)
    x[torch.arange(count), :, y] += 0.5
    return x, y


def peer(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def by_transformers(folder: Path, measured: tuple[Tensor, Tensor] | None, **settings: Any) -> Any:
    transformers = peer("transformers")
    torch.manual_seed(1)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZE))
    x, y = made(40)
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(normalised(x), y, strict=True)]
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model="eval_robust_pgd" if measured else "eval_loss",
        greater_is_better=bool(measured),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=3,
    )
    trainer = transformers.Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows[:10])
    if measured:
        trainer.add_callback(trainer_callback(trainer, *measured, mean=MEAN, std=STD, **settings))
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics.get("eval_robust_pgd_n", 0) == (len(measured[1]) if measured else 0), "evaluate() returns it too"
    assert trainer.state.best_metric is not None
    return model, [{k: v for k, v in log.items() if "robust" in k} for log in trainer.state.log_history]


def by_lightning(folder: Path, measured: tuple[Tensor, Tensor] | None, **settings: Any) -> Any:
    lightning = peer("lightning.pytorch")
    logs: list[dict[str, float]] = []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
            self.head = nn.Linear(8 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            # draws from the global generator in eval mode too
            logits: Tensor = self.head(self.net(x + 0.01 * torch.randn_like(x)))
            return logits

        def training_step(self, batch: Any, _index: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, _index: int) -> None:
            self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def on_train_epoch_start(self) -> None:
            logs.append({k: float(v) for k, v in self.trainer.callback_metrics.items() if "robust" in k})

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    torch.manual_seed(1)
    model, (x, y) = Module(), made(40)
    data = torch.utils.data.TensorDataset(normalised(x), y)
    callbacks = [lightning_callback(*measured, mean=MEAN, std=STD, **settings)] if measured else []
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, 8, shuffle=True), torch.utils.data.DataLoader(data, 20))
    logs.append({k: float(v) for k, v in trainer.callback_metrics.items() if "robust" in k})
    return model, logs


RUNS: dict[str, tuple[Run, str]] = {"transformers": (by_transformers, "eval_"), "lightning": (by_lightning, "")}


@pytest.fixture(autouse=True)
def _generators() -> Iterator[None]:
    python, numbers, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(numbers)
    torch.set_rng_state(state)


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("library", RUNS)
def test_it_is_logged_and_changes_nothing(library: str, tmp_path: Path) -> None:
    run, prefix = RUNS[library]
    peer({"lightning": "lightning.pytorch"}.get(library, library))  # an import may draw
    seed_all()
    plain, none = run(tmp_path / "plain", None)
    streams = drawn()
    seed_all()
    x, y = made(10, seed=1)
    watched, logs = run(tmp_path / "watched", (x, y), attacks=["pgd:steps=3,eps=1/255", "fgsm"])
    assert drawn() == streams
    assert not any(none)
    # weights, statistics, modes and gradients are those of a training without it
    ours, theirs = watched.state_dict(), plain.state_dict()
    assert ours
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert [m.training for m in watched.modules()] == [m.training for m in plain.modules()]
    for mine, other in zip(watched.parameters(), plain.parameters(), strict=True):
        assert mine.requires_grad == other.requires_grad
        assert (mine.grad is None) == (other.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]
    # the last figure is that of the model as it is now
    seen = [log for log in logs if log]
    assert len(seen) >= 2
    assert set(seen[-1]) == {f"{prefix}robust_{name}" for name in ("pgd", "pgd_n", "fgsm", "fgsm_n")}
    model = wrap(watched, MEAN, STD).eval()
    attack = PGD(steps=3, eps=1 / 255)
    with seeded_rng(0):
        share = correct(model, run_attack(attack, model, x, y), y).float().mean()
    assert seen[-1][f"{prefix}robust_pgd"] == pytest.approx(float(share))
    assert seen[-1][f"{prefix}robust_pgd_n"] == 10


@pytest.mark.parametrize("library", RUNS)
def test_what_does_not_fit_is_said_before_training(library: str) -> None:
    peer({"lightning": "lightning.pytorch"}.get(library, library))

    def make(*data: Any, **settings: Any) -> Any:
        return (
            lightning_callback(*data, **settings)
            if library == "lightning"
            else trainer_callback(None, *data, **settings)
        )

    x, y = made(4)
    with pytest.raises(BadImagesError, match=r"expected \[0, 1\]"):
        make(normalised(x), y)
    with pytest.raises(BadImagesError, match="labels"):
        make(x, y[:2])
    with pytest.raises(BadConfigError, match="did you mean 'pgd'"):
        make(x, y, attacks="pgdd")
    with pytest.raises(BadConfigError, match="mean and std belong together"):
        make(x, y, mean=MEAN)
