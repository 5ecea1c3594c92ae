"""Folders of adapters and tasks, signed and opened with a key, from Python and the command line."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import loradar
from loradar.adapters import init_adapter, load, save
from loradar.cli import main
from loradar.core.errors import BadFileError
from loradar.jobs.signing import sign_folder, verify_folder
from tests.adapters.tiny import as_peft_writes, as_schema_2, images, resnet

pytest.importorskip("cryptography", reason="cryptography, of the extra 'sign', is not installed")

from loradar.core.signing import make_keys

Open = Callable[[Path, Path | None], object]


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return resnet()


@pytest.fixture(scope="module")
def made(base: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, a task and two pairs of keys."""
    place = tmp_path_factory.mktemp("signing")
    save(init_adapter(base, target_modules="block-conv1"), place / "adapter", base)
    loradar.FewShotClassifier(base).fit(images(6), ["cat", "dog"] * 3).save(place / "task")
    for name in ("mine", "theirs"):
        make_keys(place / name)
    return place


@pytest.mark.parametrize("kind", ["adapter", "task"])
def test_what_is_opened_with_a_key_must_be_signed(made: Path, base: nn.Module, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(made / kind, tmp_path / kind))
    openings: list[Open] = [
        lambda folder, key: load(folder, key=key),
        lambda folder, key: loradar.load(folder, key=key),
        lambda folder, key: loradar.plug(base, folder, key=key),
        lambda folder, key: verify_folder(folder, key=key),
    ]
    if kind == "task":
        openings.append(lambda folder, key: loradar.FewShotClassifier.load(folder, base=base, key=key))
    for opened in openings:
        with pytest.raises(BadFileError, match="is not signed"):
            opened(folder, made / "mine.pub")
    sign_folder(folder, made / "mine")
    for opened in openings:
        opened(folder, made / "mine.pub")
        opened(folder, None)
        with pytest.raises(BadFileError, match="is not signed by the owner"):
            opened(folder, made / "theirs.pub")
    # whoever changes the card and knows the format still lacks the key
    adapter = load(folder)
    signature = (folder / "signature.json").read_bytes()
    save(adapter.with_card(seed=99), folder)
    assert not (folder / "signature.json").exists(), "another adapter has another signature"
    (folder / "signature.json").write_bytes(signature)
    load(folder)
    for opened in openings:
        with pytest.raises(BadFileError, match="has another digest"):
            opened(folder, made / "mine.pub")


def test_only_what_is_bound_is_signed(made: Path, tmp_path: Path) -> None:
    for make, bound in (
        (as_schema_2, "saved before digests: only its weights are bound"),
        (as_peft_writes, "not saved by loradar: nothing is bound"),
    ):
        folder = make(Path(shutil.copytree(made / "adapter", tmp_path / make.__name__)))
        assert verify_folder(folder).bound == bound
        with pytest.raises(BadFileError, match="has no digest"):
            sign_folder(folder, made / "mine")
    assert verify_folder(made / "adapter").bound.startswith("bound as a whole by its digest")


def test_on_the_command_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: object) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["loradar", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    folder, key = Path(shutil.copytree(made / "adapter", tmp_path / "adapter")), tmp_path / "key"
    assert run("adapters", "keygen", key) == 0
    assert run("adapters", "keygen", key) == 2
    assert run("adapters", "verify", folder, "--key", f"{key}.pub") == 2
    assert run("adapters", "sign", folder, "--key", key) == 0
    capsys.readouterr()
    assert run("adapters", "verify", folder, "--key", f"{key}.pub", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["digest"], said["signed_by"]) == (True, verify_folder(folder).digest, f"{key}.pub")
    assert run("adapters", "verify", folder, "--key", made / "theirs.pub") == 2
    assert "is not signed by the owner of" in capsys.readouterr().err


def test_predict_takes_a_key(made: Path, tmp_path: Path) -> None:
    from loradar.core.errors import BadConfigError
    from loradar.jobs.config import PredictConfig
    from loradar.jobs.predict import resolve
    from loradar.models import new_base, save_base

    made_base = new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=2)
    place = save_base(tmp_path / "base", made_base)
    folder = save(init_adapter(loradar.load_base(str(place)).model, rank=1), tmp_path / "adapter")
    config = PredictConfig(
        pictures=[Path("x.png")], base=str(place), adapter=folder, key=made / "mine.pub", device="cpu"
    )
    with pytest.raises(BadFileError, match="is not signed"):
        resolve(config)
    sign_folder(folder, made / "mine")
    assert resolve(config).model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(BadConfigError, match="give --adapter"):
        resolve(config.model_copy(update={"adapter": None}))
