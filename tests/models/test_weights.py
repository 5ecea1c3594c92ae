"""Files of weights: safetensors and safe pickles, strictly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from loradar.core.errors import BadFileError
from loradar.models.weights import put_weights, read_weights


@pytest.fixture
def state(linear: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand_like(tensor) for name, tensor in linear.state_dict().items()}


def test_each_kind_of_file_gives_the_same_tensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pt", "a.pth"):
        found, digest = read_weights(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[n], state[n]) for n in state)
        assert len(digest) == 64


class _Runs:
    """What a pickle can do to whoever opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"fc": _Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(BadFileError, match="would run code") as raised:
        read_weights(tmp_path / "evil.pt")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate(({}, [1, 2], {"a": 1}, {"state_dict": {"a": [1]}})):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(BadFileError, match="no state_dict"):
            read_weights(tmp_path / f"{number}.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_half_a_file_is_refused(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadFileError, match="no whole"):
        read_weights(path)
    with pytest.raises(BadFileError, match="could not read"):
        read_weights(tmp_path / f"missing.{suffix}")


def test_weights_go_in_strictly(linear: nn.Module, state: dict[str, Tensor]) -> None:
    put_weights(linear, {name: tensor.half() for name, tensor in state.items()}, "file")
    assert torch.equal(linear.state_dict()["1.bias"], state["1.bias"].half().float())
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    wrong = {
        "missing: 1.bias": {"1.weight": state["1.weight"]},
        "unexpected: 2.bias": state | {"2.bias": state["1.bias"]},
        r"1.bias is \(3,\), expected \(4,\)": state | {"1.bias": torch.zeros(3)},
        "infinite: 1.bias": state | {"1.bias": torch.full((4,), torch.nan)},
    }
    for message, weights in wrong.items():
        with pytest.raises(BadFileError, match=message):
            put_weights(linear, weights, "file")
    assert all(torch.equal(before[name], tensor) for name, tensor in linear.state_dict().items())


def test_a_long_list_of_problems_is_cut(linear: nn.Module, state: dict[str, Tensor]) -> None:
    with pytest.raises(BadFileError, match="and 4 more"):
        put_weights(linear, state | {f"extra{i}": torch.zeros(1) for i in range(7)}, "file")
