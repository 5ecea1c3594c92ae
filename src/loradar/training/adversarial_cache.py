"""Adversarial images kept on disk, under a key of attack, model and image: crafted once, reused by epochs and runs."""

import hashlib
import warnings
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.files import expand_home, make_folder, read_regular, sha256, write_atomically
from loradar.core.temporaries import remove_abandoned
from loradar.core.types import Attack, Images, Labels, LabelUse, Traits

Place = tuple[Path, int]
_HEX_DIGITS = 64
"""Of the sha256 that a file's name ends in; in files of earlier versions a process number stands there."""


@dataclass(frozen=True)
class AdversarialCache:
    """A folder of crafted images. Several processes may share it."""

    folder: Path

    def through(self, attack: Attack, model: nn.Module, *, model_key: str) -> Attack:
        """`attack` on `model`, reading what this folder holds and keeping what it does not.

        `model_key` must name the model's weights and precision (its fingerprint): it is trusted. An attack whose spec
        does not tell everything comes back as it is: nothing is kept of it.
        """
        if not attack.traits.cacheable:
            return attack
        directory = self.folder / sha256(f"{attack.spec} {model_key}".encode())[:24]
        remove_abandoned(directory)
        remembered = CachedAttack(attack=attack, model=model, directory=directory)
        remembered.look()
        return remembered


def cache_at(folder: Path) -> AdversarialCache:
    """The cache in `folder`, which is made. Raises BadFileError."""
    place = expand_home(folder) / "adversarial"
    make_folder(place)
    return AdversarialCache(place)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class CachedAttack:
    """An attack with a memory, for one model; its spec and traits are the attack's own.

    An image is known by the sha256 of its pixels and its label. Each call is one file, written atomically, so a killed
    run loses one batch at most. A file's name ends in its checksum: one that was damaged is taken away with a warning, and
    what it held is crafted again.
    """

    attack: Attack
    model: nn.Module
    directory: Path
    index: dict[str, Place] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)

    @property
    def spec(self) -> str:
        """The attack's own."""
        return self.attack.spec

    @property
    def traits(self) -> Traits:
        """The attack's own."""
        return self.attack.traits

    def reseeded(self, seed: int) -> Attack:
        """Other draws, without the memory."""
        return self.attack.reseeded(seed)

    def relabelled(self, label: LabelUse) -> Attack:
        """The labels used so, without the memory."""
        return self.attack.relabelled(label)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """Raises BadConfigError for a model that is not the one whose images these are."""
        if model is not self.model:
            raise BadConfigError("this cached attack belongs to another model; expected the one that it was made for")
        keys = _keys(x, y)
        if not all(key in self.index for key in keys):
            self.look()  # other processes, on other machines too, may have crafted them since
        x_adv = torch.empty_like(x)
        missing = self._read(keys, x_adv)
        if missing:
            rows = torch.tensor(missing, device=x.device)
            crafted = self.attack(model, x[rows], y[rows])
            x_adv[rows] = crafted
            self._write([keys[i] for i in missing], crafted)
        return x_adv

    def look(self) -> None:
        """Takes the files that are new in the folder into the index."""
        unchecked = 0
        for path in sorted(set(self.directory.glob("*.safetensors")) - self.seen):
            self.seen.add(path)
            if len(path.stem.rpartition("-")[2]) != _HEX_DIGITS:
                unchecked += 1
                continue
            try:
                with safe_open(path, framework="pt") as file:
                    keys = file.get_tensor("keys")
            except FileNotFoundError:  # another process took it away
                continue
            except (SafetensorError, OSError):
                _discard(path)
                continue
            self.index.update({bytes(key.tolist()).hex(): (path, row) for row, key in enumerate(keys)})
        if unchecked:
            warnings.warn(
                f"{unchecked} files in {self.directory} are of an earlier version, without a checksum: the attacked images "
                "in them are made anew",
                stacklevel=2,
            )

    def _read(self, keys: list[str], x_adv: Images) -> list[int]:
        """Fills the rows of `x_adv` that are on disk and returns the others."""
        missing = []
        wanted: dict[Path, list[tuple[int, int]]] = defaultdict(list)
        for row, key in enumerate(keys):
            if place := self.index.get(key):
                wanted[place[0]].append((row, place[1]))
            else:
                missing.append(row)
        for path, rows in wanted.items():
            images = _images(path)
            if images is None:
                missing += [row for row, _ in rows]
                continue
            into, out = zip(*rows, strict=True)
            x_adv[list(into)] = images[list(out)].to(x_adv)
        return sorted(missing)

    def _write(self, keys: list[str], x_adv: Images) -> None:
        packed = torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8)
        data = safetensors.torch.save({"keys": packed, "images": x_adv.cpu().contiguous()})
        path = self.directory / f"{keys[0][:16]}-{len(keys)}-{sha256(data)}.safetensors"
        write_atomically(path, data)
        self.seen.add(path)
        self.index.update({key: (path, row) for row, key in enumerate(keys)})


def _images(path: Path) -> Tensor | None:
    """The images of a file; None where they are not those that were written, or where it is gone."""
    try:
        data = read_regular(path)
    except OSError:
        return None
    if sha256(data) != path.stem.rpartition("-")[2]:
        _discard(path)
        return None
    return safetensors.torch.load(data)["images"]


def _discard(path: Path) -> None:
    warnings.warn(f"{path} is damaged: the attacked images in it are made anew", stacklevel=2)
    with suppress(OSError):
        path.unlink()


def _keys(x: Images, y: Labels) -> list[str]:
    pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
    return [
        hashlib.sha256(image.tobytes() + int(label).to_bytes(8, "little", signed=True)).hexdigest()
        for image, label in zip(pixels, y.tolist(), strict=True)
    ]
