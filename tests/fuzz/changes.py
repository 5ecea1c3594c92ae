"""What is done to a valid input: bytes, JSON, tensors and the kinds of files, as hypothesis draws them."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st

DEEP: Any = [0]
for _ in range(90):
    DEEP = [DEEP]

# numbers, text and structures that are seldom what a reader expects
TEXTS = (
    *("", " ", "\0", "\n", "..", "../../x", "/", "/etc/passwd", "~", "~nobody/x", "x" * 5000, "é" * 200, "\u202e", "ß"),
    *("[red]x[/]", ":smile:", "$^$", "{{ x }}", "${x}", "%s", "\udc80", "日本語", "nan", "-1", "1e400", "0x10", "true"),
)
NUMBERS = (0, -1, 1, 2, 3, 255, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"))
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(-9, 99),
    st.sampled_from(TEXTS),
    st.text(max_size=12),
    st.sampled_from([[], {}, [[]], [None], {"": 0}, {"a": {"a": {}}}, ["a", 1], DEEP]),
)
places = st.floats(0, 1, exclude_max=True)
_DTYPES = tuple(
    getattr(torch, name)
    for name in (
        *("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"),
        *("int8", "int16", "int32", "int64", "uint8", "bool", "complex64"),
    )
)
_SHAPES = ((), (0,), (1,), (3,), (2, 2), (0, 4), (4, 4, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1))

Change = tuple[Any, ...]
"""The name of a function below, and its arguments after the file's path."""


def flip(path: Path, place: float, mask: int) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[int(place * len(data))] ^= mask
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(place * len(data))])


def insert(path: Path, place: float, more: bytes) -> None:
    data = path.read_bytes()
    at = int(place * len(data))
    path.write_bytes(data[:at] + more + data[at:])


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(path.name if target == "itself" else target)


def swap(path: Path, place: float) -> None:
    """Takes the content of another file of the folder."""
    others = sorted(one for one in path.parent.iterdir() if one.is_file())
    if others:
        path.write_bytes(others[int(place * len(others))].read_bytes())


def nest(path: Path, levels: int) -> None:
    path.write_text('{"a":' * levels + "0" + "}" * levels)


def edit(path: Path, place: float, how: str, value: Any) -> None:
    """Changes a value somewhere in a JSON file: `drop`, `set`, `wrap`, `add` or (a key) `double` it."""
    content = json.loads(path.read_bytes())
    edited(content, place, how, value)
    path.write_text(json.dumps(content))


def double(path: Path, key: str, value: Any) -> None:
    """Gives a JSON object a key twice."""
    text = path.read_text().rstrip()
    path.write_text(f"{text[:-1]}, {json.dumps(key)}: {json.dumps(value)}}}")


def edited(content: Any, place: float, how: str, value: Any) -> None:
    """Changes a value somewhere in `content`, in place."""
    spots = list(_spots(content))
    if not spots:
        return
    holder, key = spots[int(place * len(spots))]
    if how == "drop":
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[value if isinstance(value, str) else "more"] = value
    elif how == "wrap":
        holder[key] = [holder[key]]
    else:
        holder[key] = value


def _spots(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _spots(value)


def tensor(path: Path, place: float, dtype: torch.dtype | None, shape: Sequence[int] | None) -> None:
    """Drops a tensor of a safetensors file, or gives it another dtype or shape; the metadata are lost."""
    tensors = safetensors.torch.load(path.read_bytes())
    keys = sorted(tensors)
    if not keys:
        return
    key = keys[int(place * len(keys))]
    if dtype is None and shape is None:
        del tensors[key]
    elif shape is not None:
        tensors[key] = torch.ones(tuple(shape), dtype=tensors[key].dtype)
    else:
        tensors[key] = tensors[key].to(dtype)
    path.write_bytes(safetensors.torch.save(tensors))


def header(path: Path, place: float, how: str, value: Any) -> None:
    """Changes the header of a safetensors file as `edit` changes JSON."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + size])
    edited(content, place, how, value)
    text = json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


_CHANGES: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (flip, cut, insert, overwrite, remove, pipe, folder, link, swap, nest, edit, double, tensor, header)
}
_hows = st.sampled_from(["drop", "set", "set", "set", "add", "wrap"])
_any_file: list[st.SearchStrategy[Change]] = [
    st.tuples(st.just("flip"), places, st.integers(1, 255)),
    st.tuples(st.just("cut"), places),
    st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("overwrite"), st.binary(max_size=20)),
    st.tuples(st.sampled_from(["remove", "pipe", "folder"])),
    st.tuples(st.just("link"), st.sampled_from(["itself", "nowhere", ".", "/dev/null", "/dev/zero"])),
    st.tuples(st.just("swap"), places),
]
_json: list[st.SearchStrategy[Change]] = [
    st.tuples(st.just("edit"), places, _hows, odd),
    st.tuples(st.just("edit"), places, _hows, odd),
    st.tuples(st.just("double"), st.sampled_from(["schema", "sha256", "digest", "r", "x"]), odd),
    st.tuples(st.just("nest"), st.sampled_from([70, 2000, 100_000])),
]
_tensors: list[st.SearchStrategy[Change]] = [
    st.tuples(st.just("tensor"), places, st.sampled_from(_DTYPES), st.none()),
    st.tuples(st.just("tensor"), places, st.none(), st.none() | st.sampled_from(_SHAPES)),
    st.tuples(st.just("header"), places, _hows, odd),
]


def of_file(name: str) -> st.SearchStrategy[Change]:
    """Changes of a file by its kind: (file, function, arguments...)."""
    more = _json if name.endswith(".json") else _tensors if name.endswith(".safetensors") else []
    return st.one_of(*_any_file, *more, *more).map(lambda change: (name, *change))


def of_folder(*names: str) -> st.SearchStrategy[list[Change]]:
    """One to three changes of the files of a folder."""
    return st.lists(st.one_of(*map(of_file, names)), min_size=1, max_size=3)


@dataclass(frozen=True)
class Spoiled:
    """A copy of a folder with changes; `is_same` where none of them changed a byte."""

    folder: Path
    is_same: bool


def spoil(valid: Path, place: Path, changes: Sequence[Change]) -> Spoiled:
    """Copies the folder `valid` to `place` and makes the changes; those that cannot be made after others are left out."""
    shutil.copytree(valid, place)
    for name, kind, *arguments in changes:
        path = place / name
        if path.is_file():
            try:
                _CHANGES[kind](path, *arguments)
            except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, RuntimeError):
                continue  # what an earlier change left is no JSON, no tensors, or no file
            except safetensors.SafetensorError:
                continue
    return Spoiled(folder=place, is_same=_content(valid) == _content(place))


def _content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and path.stat().st_size < 10**7 else None
        for path in folder.rglob("*")
    }


def texts(valid: Sequence[str], *, alphabet: str = "") -> st.SearchStrategy[str]:
    """A valid text, parts of it cut out, doubled or replaced by odd text; or any text at all."""
    pieces = st.one_of(
        st.sampled_from(TEXTS),
        st.sampled_from([str(number) for number in NUMBERS]),
        st.text(alphabet=alphabet or "abcdefgh0123456789:=,/+|().*-_ \"'", max_size=6),
        st.characters(),
    )
    changed = st.builds(
        _replaced,
        st.sampled_from(valid),
        st.lists(st.tuples(places, st.integers(0, 6), pieces), min_size=1, max_size=3),
    )
    return st.one_of(changed, changed, changed, st.sampled_from(valid), st.text(max_size=30))


def _replaced(text: str, changes: Sequence[tuple[float, int, str]]) -> str:
    for place, length, piece in changes:
        start = int(place * (len(text) + 1))
        text = text[:start] + piece + text[start + length :]
    return text
