"""A task's folder stands for the base that wears it."""

from pathlib import Path

import pytest
import torch

from loradar.adapters import init_adapter
from loradar.core.errors import BadConfigError, BadDataError, BadFileError, WrongBaseError
from loradar.data import load_source
from loradar.fewshot import fit
from loradar.fewshot.classifier import FewShotClassifier
from loradar.fewshot.config import FewShotFitConfig
from loradar.jobs import audit, check
from loradar.jobs.bases import open_model
from loradar.jobs.config import AuditConfig, CheckConfig
from loradar.models import new_base, save_base
from tests.data.pictures import digits_folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of three digits, fitted on `support` beside it; `query` holds other pictures of them."""
    folder = tmp_path_factory.mktemp("task")
    pictures = digits_folder(folder / "all", classes=3, each=8)
    for path in sorted(pictures.glob("*/*.png")):
        kind = "support" if int(path.stem) < 4 else "query"
        (folder / kind / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(folder / kind / path.parent.name / path.name)
    base = save_base(folder / "base", new_base("timm:test_resnet", num_classes=7, input_size=(3, 32, 32), seed=1))
    fit.run(fit.resolve(FewShotFitConfig(support=str(folder / "support"), base=str(base), out=folder / "task")))
    return folder


def test_a_task_is_audited_on_its_own_classes(task: Path, tmp_path: Path) -> None:
    config = AuditConfig(
        base=str(task / "task"),
        data=str(task / "query"),
        attacks=["pgd:steps=2"],
        effort="quick",
        precision="fp32",
        out=tmp_path / "audit",
    )
    report = audit.run(audit.resolve(config)).report
    clean, *attacked = report.rows
    source = load_source(str(task / "query"), size=(32, 32)).train
    x, y = source.fetch(torch.arange(12))
    opened = FewShotClassifier.load(task / "task")
    assert (clean.correct, clean.total) == (int((opened.decision_function(x).argmax(1) == y).sum()), 12)
    assert [row.total for row in attacked] == [12, 12]
    assert report.base["classes"] == ["digit0", "digit1", "digit2"]


def test_the_images_of_the_fit_say_nothing_of_a_task(task: Path, tmp_path: Path) -> None:
    config = {"base": str(task / "task"), "data": str(task / "support")}
    with pytest.raises(BadDataError, match="was fitted on the images of"):
        audit.resolve(AuditConfig(out=tmp_path, **config))
    with pytest.raises(BadDataError, match="was fitted on the images of"):
        check.resolve(CheckConfig(**config | {"data": f"{task}/query/../support"}))


def test_an_adapter_of_no_task_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadFileError):
        open_model(str(tmp_path), "cpu")


def test_an_adapter_is_measured_at_the_size_that_it_was_trained_at(tmp_path: Path) -> None:
    base = new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=1)
    adapter = init_adapter(base.model, target_modules=["all-conv"], rank=2)
    small, large = (adapter.with_card(data={"input_size": [3, size, size]}) for size in (24, 40))
    config = AuditConfig(base="own", data="digits", out=tmp_path)
    assert audit.resolve(config, base=base, adapters={"a": large}).base.input_size == (3, 40, 40)
    given = config.model_copy(update={"size": (28, 28)})
    assert audit.resolve(given, base=base, adapters={"a": large, "b": small}).base.input_size == (3, 28, 28)
    with pytest.raises(BadConfigError, match="trained on images of 24x24 and 40x40; give --size"):
        audit.resolve(config, base=base, adapters={"a": large, "b": small})


def test_a_size_that_is_none_is_refused_and_another_base_is_named_first(tmp_path: Path) -> None:
    base = new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=1)
    adapter = init_adapter(base.model, target_modules=["all-conv"], rank=2)
    config = AuditConfig(base="own", data="digits", out=tmp_path)
    for size in (224, [3, 0, 5], ["3", "a", "b"]):
        with pytest.raises(BadFileError, match="expected \\[channels, height, width\\]"):
            audit.resolve(config, base=base, adapters={"a": adapter.with_card(data={"input_size": size})})
    other = new_base("timm:test_vit", num_classes=10, input_size=(3, 32, 32), seed=1)
    with pytest.raises(WrongBaseError):
        audit.resolve(config, base=other, adapters={"a": adapter.with_card(data={"input_size": [3, 40, 40]})})
