from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from torch import nn

from loradar.attacks import BaseAttack, FunctionAttack
from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels
from loradar.training import AdversarialCache


@dataclass(frozen=True, kw_only=True)
class Shift(BaseAttack):
    """An attack that counts the images it was asked for."""

    spec_name: ClassVar[str] = "shift"

    by: float = 0.25
    asked: list[int] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        self.asked.append(len(x))
        return (x + self.by * (1 + y[:, None, None, None])).clamp(0, 1)


X, Y = torch.rand(6, 3, 4, 4), torch.arange(6) % 3
MODEL = nn.Identity()


def test_what_was_crafted_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    first, again = Shift(), Shift()
    expected = Shift()(MODEL, X, Y)
    assert torch.equal(AdversarialCache(tmp_path).through(first, MODEL, model_key="m")(MODEL, X, Y), expected)
    assert torch.equal(AdversarialCache(tmp_path).through(again, MODEL, model_key="m")(MODEL, X, Y), expected)
    assert first.asked == [6]
    assert again.asked == []


def test_only_what_is_missing_is_crafted_in_any_order(tmp_path: Path) -> None:
    attack = Shift()
    cached = AdversarialCache(tmp_path).through(attack, MODEL, model_key="m")
    cached(MODEL, X[:4], Y[:4])
    order = torch.tensor([5, 1, 4, 0])
    assert torch.equal(cached(MODEL, X[order], Y[order]), Shift()(MODEL, X[order], Y[order]))
    assert attack.asked == [4, 2]


@pytest.mark.parametrize("other", ["attack", "model", "label"])
def test_another_attack_model_or_label_is_another_key(tmp_path: Path, other: str) -> None:
    cache = AdversarialCache(tmp_path)
    cache.through(Shift(), MODEL, model_key="m")(MODEL, X, Y)
    attack = Shift(by=0.5) if other == "attack" else Shift()
    y = (Y + 1) % 3 if other == "label" else Y
    key = "n" if other == "model" else "m"
    assert torch.equal(cache.through(attack, MODEL, model_key=key)(MODEL, X, y), attack(MODEL, X, y))
    assert attack.asked == [6, 6]


def cut(data: bytearray) -> bytes:
    return bytes(data[:100])


def flip(at: int) -> Callable[[bytearray], bytes]:
    def change(data: bytearray) -> bytes:
        data[at] ^= 1
        return bytes(data)

    return change


@pytest.mark.parametrize(
    "damage", [cut, flip(-1), flip(-100), flip(9)], ids=["cut", "an image", "a pixel", "the header"]
)
def test_a_damaged_file_is_said_and_crafted_again(tmp_path: Path, damage: Callable[[bytearray], bytes]) -> None:
    AdversarialCache(tmp_path).through(Shift(), MODEL, model_key="m")(MODEL, X, Y)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(damage(bytearray(whole)))
    attack = Shift()
    with pytest.warns(UserWarning, match="is damaged: the attacked images in it are made anew"):
        x_adv = AdversarialCache(tmp_path).through(attack, MODEL, model_key="m")(MODEL, X, Y)
    assert torch.equal(x_adv, Shift()(MODEL, X, Y))
    assert attack.asked == [6]
    assert [path.read_bytes() for path in tmp_path.rglob("*.safetensors")] == [whole]
    assert torch.equal(AdversarialCache(tmp_path).through(again := Shift(), MODEL, model_key="m")(MODEL, X, Y), x_adv)
    assert again.asked == []


def test_damage_to_the_keys_gives_no_other_images(tmp_path: Path) -> None:
    """An image that is no longer found is made anew; one that is found lies in a file whose checksum is wrong."""
    AdversarialCache(tmp_path).through(Shift(), MODEL, model_key="m")(MODEL, X, Y)
    (file,) = tmp_path.rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[data.index(bytes(safetensors.torch.load(bytes(data))["keys"][0].tolist()))] ^= 1
    file.write_bytes(data)
    attack = Shift()
    with pytest.warns(UserWarning, match="is damaged"):
        x_adv = AdversarialCache(tmp_path).through(attack, MODEL, model_key="m")(MODEL, X, Y)
    assert torch.equal(x_adv, Shift()(MODEL, X, Y))
    assert attack.asked == [6]


def test_files_of_before_checksums_are_crafted_again(tmp_path: Path) -> None:
    AdversarialCache(tmp_path).through(Shift(), MODEL, model_key="m")(MODEL, X, Y)
    (file,) = tmp_path.rglob("*.safetensors")
    file.rename(file.with_name(file.name.rpartition("-")[0] + "-1234.safetensors"))
    attack = Shift()
    with pytest.warns(UserWarning, match="1 files in .* without a checksum"):
        cached = AdversarialCache(tmp_path).through(attack, MODEL, model_key="m")
    assert torch.equal(cached(MODEL, X, Y), Shift()(MODEL, X, Y))
    assert attack.asked == [6]


def test_a_file_that_vanishes_between_is_crafted_again(tmp_path: Path) -> None:
    cached = AdversarialCache(tmp_path).through(attack := Shift(), MODEL, model_key="m")
    cached(MODEL, X, Y)
    (file,) = tmp_path.rglob("*.safetensors")
    file.unlink()
    assert torch.equal(cached(MODEL, X, Y), Shift()(MODEL, X, Y))
    assert attack.asked == [6, 6]


def test_another_model_is_refused(tmp_path: Path) -> None:
    cached = AdversarialCache(tmp_path).through(Shift(), MODEL, model_key="m")
    with pytest.raises(BadConfigError, match="another model"):
        cached(nn.Identity(), X, Y)


def test_an_attack_whose_name_does_not_tell_everything_is_not_kept(tmp_path: Path) -> None:
    attack = FunctionAttack(lambda *args: 1 - args[1], name="negative")
    assert AdversarialCache(tmp_path).through(attack, MODEL, model_key="m") is attack
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_says_of_itself_what_the_attack_says(tmp_path: Path) -> None:
    attack = Shift(by=0.5)
    cached = AdversarialCache(tmp_path).through(attack, MODEL, model_key="m")
    assert (cached.spec, cached.traits) == ("shift:by=0.5", attack.traits)


def test_what_others_craft_meanwhile_is_found(tmp_path: Path) -> None:
    attack = Shift()
    ours = AdversarialCache(tmp_path).through(attack, MODEL, model_key="m")
    AdversarialCache(tmp_path).through(Shift(), MODEL, model_key="m")(MODEL, X[:4], Y[:4])
    assert torch.equal(ours(MODEL, X, Y), Shift()(MODEL, X, Y))
    assert attack.asked == [2]
