"""The front door: objects in, objects out, on the built-in digits."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loradar
from loradar.core.errors import BadConfigError, WrongBaseError
from loradar.data import load_source
from loradar.jobs.harden import HardenResult

QUICK: dict[str, Any] = {
    "effort": "quick",
    "epochs": 1,
    "baselines": False,
    "validation": 8,
    "max_test_images": 12,
    "train": 32,
    "batch_size": 16,
    "flip": False,
}


class Net(nn.Module):
    """A small classifier that loradar knows nothing of; with `scale`, of normalised images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        logits: Tensor = self.classifier(self.body(x).relu().mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images = load_source("digits").train
    return images.fetch(torch.arange(80))


@pytest.fixture(scope="module")
def model(digits: tuple[Tensor, Tensor]) -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, y = digits
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.train()


@pytest.fixture(scope="module")
def hardened(model: nn.Module, digits: tuple[Tensor, Tensor]) -> HardenResult:
    attacks = [loradar.PGD(eps=8 / 255, steps=2), loradar.ROA(height=5, width=5, steps=2, n_candidates=3)]
    return loradar.harden(model, digits, attacks=attacks, **QUICK)


def test_a_model_in_memory_is_hardened_and_stays_as_it_is(
    model: nn.Module, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode, flags = model.training, [p.requires_grad for p in model.parameters()]
    result = loradar.harden(model, digits, attacks=[loradar.PGD(eps=8 / 255, steps=1)], out=tmp_path / "run", **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (model.training, [p.requires_grad for p in model.parameters()]) == (mode, flags)
    assert list(result) == ["pgd"]
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(KeyError, match="did you mean 'pgd'"):
        result["pdg"]


def test_adapters_are_plugged_saved_and_loaded(
    hardened: HardenResult,
    model: nn.Module,
    digits: tuple[Tensor, Tensor],
    tmp_path: Path,
) -> None:
    x, _ = digits
    robust = loradar.plug(model, hardened["pgd"])
    page = hardened.save(tmp_path / "kept")
    assert page.exists()
    again = loradar.load(tmp_path / "kept" / "adapters" / "pgd")
    again.save(tmp_path / "copy")
    with torch.no_grad():
        expected = robust(x[:4])
        assert not torch.equal(expected, model.eval()(x[:4]))
        model.train()
        assert torch.equal(loradar.plug(model, tmp_path / "copy")(x[:4]), expected)
    other = Net()
    with pytest.raises(WrongBaseError, match="belongs to the base"):
        loradar.plug(other, again)


def test_the_same_data_in_any_form_train_the_same_adapter(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    attacks = ["pgd:steps=2"]
    forms = [TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=7), (x.numpy(), y.numpy())]
    expected = loradar.harden(model, (x, y), attacks=attacks, **QUICK)["pgd"].state()
    for form in forms:
        state = loradar.harden(model, form, attacks=attacks, **QUICK)["pgd"].state()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_normalised_models_are_given_with_mean_and_std(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    x, y = digits
    shifted = loradar.evaluate(model, x, y, attacks=["fgsm"], mean=mean, std=std)
    wrapped = loradar.evaluate(loradar.wrap(model, mean, std), x, y, attacks=["fgsm"])
    assert [(r.correct, r.attack) for r in shifted] == [(r.correct, r.attack) for r in wrapped]
    adapter = loradar.harden(model, digits, attacks=["fgsm"], mean=mean, std=std, **QUICK)["fgsm"]
    loradar.plug(model, adapter, mean=mean, std=std)
    with pytest.raises(WrongBaseError):
        loradar.plug(model, adapter)


def test_evaluate_counts_clean_and_attacked_images(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    attacks = {"noise": "noise", "pgd": loradar.PGD(eps=8 / 255, steps=5), "inverted": lambda _model, x, _y: 1 - x}
    rows = loradar.evaluate(model, x, y, attacks=attacks)
    assert [row.threat for row in rows] == ["clean", "adaptive", "adaptive", "adaptive"]
    assert rows[0].correct == int((model.eval()(x).argmax(1) == y).sum())
    model.train()
    assert rows[2].correct <= rows[1].correct <= rows[0].total == 80
    assert rows[2].attack == "pgd:steps=5"


def test_check_prints_a_verdict(
    model: nn.Module, digits: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    result = loradar.check(model, digits, max_test_images=20)
    said = capsys.readouterr().out
    assert said.strip() == str(result)
    assert "base" in said
    assert result.verdict.level in ("not", "unknown", "partly")
    assert {row.attack.partition(":")[0] for row in result.report.rows} == {"none", "pgd", "roa"}


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_plugged_model_is_exported(
    hardened: HardenResult,
    model: nn.Module,
    tmp_path: Path,
    suffix: str,
) -> None:
    pytest.importorskip("onnxruntime")
    robust = loradar.plug(model, hardened["pgd"])
    path = loradar.export(robust, tmp_path / f"model.{suffix}")
    x = torch.rand(5, 3, 32, 32)
    if suffix == "pt2":
        found = torch.export.load(path).module()(x)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    torch.testing.assert_close(found, robust(x), rtol=1e-4, atol=1e-4)


WRONG: dict[str, Any] = {
    "images of 0 to 255": (lambda x, y: ((x * 255, y), {}), loradar.LoradarError, r"\[0, 1\]"),
    "a label too many": (lambda x, y: ((x, y[:-1]), {}), Exception, "labels"),
    "labels beyond the classes": (lambda x, y: ((x, y + 1), {}), Exception, "class"),
    "images of another size": (lambda x, y: ((x[:, :1], y), {}), BadConfigError, r"\(2, 1, 32, 32\)|\(80, 1, 32, 32\)"),
    "an unknown setting": (lambda x, y: ((x, y), {"epoch": 1}), BadConfigError, "did you mean 'epochs'"),
    "no attack": (lambda x, y: ((x, y), {"attacks": []}), BadConfigError, "no attack"),
    "one attack twice": (lambda x, y: ((x, y), {"attacks": ["pgd", "pgd"]}), BadConfigError, "two attacks"),
    "an unknown attack": (lambda x, y: ((x, y), {"attacks": ["pdg"]}), BadConfigError, "did you mean 'pgd'"),
    "an attack of no strength": (lambda x, y: ((x, y), {"attacks": ["pgd:step_size=-1"]}), BadConfigError, "step_size"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_line(case: str, model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    change, kind, says = WRONG[case]
    data, settings = change(*digits)
    with pytest.raises(kind, match=says) as error:
        loradar.harden(model, data, **(QUICK | {"attacks": ["fgsm"]} | settings))
    assert "\n" not in str(error.value)


class Tupled(Net):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x), x)  # type: ignore[return-value]


class OneColumn(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


@pytest.mark.parametrize("kind", [Tupled, OneColumn])
def test_what_a_model_must_give(kind: type[Net], digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(loradar.LoradarError) as error:
        loradar.harden(kind(), digits, attacks=["fgsm"], **QUICK)
    assert "\n" not in str(error.value)


def test_importing_loradar_is_instant_and_imports_no_torch() -> None:
    code = "import sys, loradar; assert 'torch' not in sys.modules; dir(loradar); print(len(loradar.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 20 <= int(done.stdout) <= 32


def test_every_name_of_the_front_door_is_there() -> None:
    for name in loradar.__all__:
        assert getattr(loradar, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'hardenn'"):
        loradar.hardenn  # noqa: B018
