"""`verify` is what `load` and `plug` check, and nothing else: whatever is done to a folder, both say the same."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loradar.adapters import Adapter, load, plug, save, verify
from loradar.core.digests import digest_of, dump_marked
from loradar.core.errors import LoradarError
from loradar.core.files import sha256
from tests.adapters.tiny import as_peft_writes, as_schema_2, images, resnet, trained

WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "loradar.json"
A, B = (f"base_model.model.layer1.0.conv1.lora_{one}.weight" for one in "AB")
HEAD = "base_model.model.fc.weight"
BASE = resnet()
X = images(2)
KINDS: dict[str, Callable[[Path], Path]] = {"bound": lambda p: p, "schema 2": as_schema_2, "PEFT": as_peft_writes}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adapter as each kind of folder."""
    place = tmp_path_factory.mktemp("kinds")
    adapter: Adapter = trained(BASE, "block-conv1")
    for name, make in KINDS.items():
        make(save(adapter, place / name))
    return place


def works(folder: Path) -> bool:
    """Whether the adapter can be worn; anything but a line that says why it cannot is raised."""
    try:
        plugged = plug(BASE, load(folder))
    except LoradarError:
        return False
    with torch.no_grad():
        logits = plugged(X)
    assert logits.shape == (2, 4)
    assert bool(logits.isfinite().all())
    return True


def agree(folder: Path, base: nn.Module = BASE) -> bool:
    problems, is_worn = verify(folder, base), works(folder)
    assert (problems == []) == is_worn, problems
    assert all(len(line.splitlines()) == 1 and len(line) < 1000 for line in problems)
    return is_worn


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Changes tensors, and lets the record speak for what is then there, as one would who knows the format."""
    tensors = {key: t.contiguous() for key, t in change(safetensors.torch.load_file(folder / WEIGHTS)).items()}
    record = json.loads((folder / RECORD).read_text()) if (folder / RECORD).exists() else {"schema": 0}
    is_bound = record["schema"] == 3
    (folder / WEIGHTS).write_bytes(dump_marked(tensors) if is_bound else safetensors.torch.save(tensors))
    if record["schema"]:
        named = {key: (str(t.dtype).removeprefix("torch."), list(t.shape)) for key, t in tensors.items()}
        reseal(folder, {"tensors": named})


def reseal(folder: Path, changes: dict[str, Any]) -> None:
    if (folder / RECORD).exists():
        record = merged(json.loads((folder / RECORD).read_text()), changes)
        record["sha256"] = sha256((folder / WEIGHTS).read_bytes())
        if record["schema"] == 3:
            config = json.loads((folder / CONFIG).read_text())
            config.pop("base_model_name_or_path", None)
            record["digest"] = digest_of(record, config)
        (folder / RECORD).write_text(json.dumps(record))


def merged(content: Any, changes: Any) -> Any:
    if not isinstance(changes, dict) or not isinstance(content, dict):
        return changes
    return content | {key: merged(content.get(key, {}), value) for key, value in changes.items()}


def configured(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reseal(folder, {})


def pipe(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def only(*keys: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key in keys}


def cast(dtype: torch.dtype, *keys: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {k: t.to(dtype) if not keys or k in keys else t for k, t in tensors.items()}


Change = Callable[[Path], object]


def casting(dtype: torch.dtype, *keys: str) -> Change:
    return lambda folder: rewrite(folder, cast(dtype, *keys))


def shaped(key: str, *shape: int) -> Change:
    return lambda folder: rewrite(folder, lambda tensors: tensors | {key: torch.ones(shape)})


def replacing(key: str, value: Tensor | None) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {k: t for k, t in tensors.items() if k != key} | ({} if value is None else {key: value})


def piped(name: str) -> Change:
    return lambda folder: pipe(folder, name)


FLOATS = (torch.float16, torch.bfloat16, torch.float64)
NO_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64)
DEEP: Any = [0]
for _ in range(100):
    DEEP = [DEEP]


def cast16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {key: torch.full_like(tensors[key], 6e4, dtype=torch.float16) for key in (A, B)}


# what is done, and for which kinds of folder the adapter is still worn
CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing": (lambda f: f, ("bound", "schema 2", "PEFT")),
    **{f"all {d}": (casting(d), () if d == torch.float64 else ("PEFT",)) for d in FLOATS},
    **{f"factors {d}": (casting(d, A, B), ("bound", "schema 2", "PEFT")) for d in FLOATS},
    **{f"all {d}": (casting(d), ()) for d in NO_FLOATS},
    **{f"factors {d}": (casting(d, A, B), ()) for d in NO_FLOATS},
    "one factor in float64": (lambda f: rewrite(f, cast(torch.float64, A)), ()),
    "a head in float64": (lambda f: rewrite(f, cast(torch.float64, HEAD)), ()),
    "no tensors": (lambda f: rewrite(f, only()), ()),
    "no bytes": (lambda f: (f / WEIGHTS).write_bytes(b""), ()),
    **{
        f"{key[-13:]} of shape {shape}": (shaped(key, *shape), ())
        for key in (A, B, HEAD)
        for shape in ((), (1,), (0, 0), (1, 1, 1, 1, 1))
    },
    "infinite": (lambda f: rewrite(f, lambda t: t | {A: t[A] * torch.inf}), ()),
    "a delta and a whole weight": (
        lambda f: rewrite(f, lambda t: t | {"base_model.model.layer1.0.conv1.weight": torch.ones(8, 8, 3, 3)}),
        (),
    ),
    "lora_alpha NaN": (lambda f: configured(f, lora_alpha=float("nan")), ("bound", "schema 2")),
    "lora_alpha infinite": (lambda f: configured(f, lora_alpha=float("inf")), ("bound", "schema 2")),
    "lora_alpha 1e308": (lambda f: configured(f, lora_alpha=1e308), ("bound", "schema 2")),
    "lora_alpha 1e39": (lambda f: configured(f, lora_alpha=1e39), ("bound", "schema 2")),
    "scale 1e308": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"scale": 1e308}}}), ("PEFT",)),
    "scale -1e39": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"scale": -1e39}}}), ("PEFT",)),
    "huge factors": (lambda f: rewrite(f, lambda t: t | {A: t[A] * 0 + 1e38, B: t[B] * 0 + 1e38}), ()),
    "huge factors of a tiny product": (lambda f: rewrite(f, lambda t: t | {A: t[A] * 0 + 3e38, B: t[B] * 0}), ()),
    "huge factors in float16": (lambda f: rewrite(f, cast16), ("PEFT",)),  # PEFT's are read as float32
    "groups 0": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"groups": 0}}}), ("PEFT",)),
    "groups 3": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"groups": 3}}}), ("PEFT",)),
    "more init factors": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"init_factors": 99}}}), ("PEFT",)),
    "scale 1e400": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"scale": 10**400}}}), ("PEFT",)),
    "scale NaN": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"scale": float("nan")}}}), ("PEFT",)),
    "no shape": (lambda f: reseal(f, {"deltas": {"layer1.0.conv1": {"shape": []}}}), ("PEFT",)),
    "a boolean schema": (lambda f: reseal(f, {"schema": True}), ("PEFT",)),
    "deep settings": (lambda f: configured(f, further=DEEP), ()),
    "deep record": (lambda f: (f / RECORD).write_text('{"card":' * 10**5), ()),
    "a long number": (lambda f: (f / RECORD).write_text('{"schema":' + "9" * 5000 + "}"), ()),
    **{f"a pipe for {name}": (piped(name), ()) for name in (WEIGHTS, CONFIG, RECORD)},
}


def test_a_change_too_large_for_the_base_s_dtype_is_named(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "PEFT", tmp_path / "one"))
    rewrite(folder, lambda t: {A: t[A] * 0 + 1e3, B: t[B] * 0 + 1e3})
    assert verify(folder, BASE) == []
    (line,) = verify(folder, copy.deepcopy(BASE).half())
    assert "changes layer1.0.conv1 by values too large for float16" in line
    with pytest.raises(LoradarError, match=r"changes layer1\.0\.conv1 by values too large for float16"):
        plug(copy.deepcopy(BASE).half(), load(folder))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_verify_accepts_what_is_worn(folders: Path, tmp_path: Path, kind: str, case: str) -> None:
    change, worn = CASES[case]
    folder = Path(shutil.copytree(folders / kind, tmp_path / "one"))
    change(folder)
    assert agree(folder) == (kind in worn)


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([10**30, 10**400, 0.5, float("nan"), float("-inf"), "", "conv1", "\n", [], {}, [[]], {"conv1": 1}]),
)
dtypes = st.sampled_from((torch.float32, *FLOATS, *NO_FLOATS))
shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple)
tensors = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), shapes, dtypes)
keys = st.sampled_from(
    [A, B, HEAD, "base_model.model.fc.bias", "base_model.model.bn1.running_mean", "x", f"{A}.weight"]
)
one_change = st.one_of(
    st.tuples(st.just("tensor"), keys, st.none() | tensors),
    st.tuples(
        st.just("config"),
        st.sampled_from(
            ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "peft_type"]
        ),
        odd,
    ),
    st.tuples(st.just("card"), st.sampled_from(["classes", "modules_to_save", "head", "norm", "rank", "data"]), odd),
    st.tuples(
        st.just("delta"),
        st.sampled_from(["shape", "scale", "groups", "init_factors", "bias", "branch_equivalent"]),
        odd,
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(kind=st.sampled_from(list(KINDS)), changes=st.lists(one_change, min_size=1, max_size=2))
def test_verify_and_plug_agree_on_any_folder(
    folders: Path, tmp_path: Path, kind: str, changes: list[tuple[str, str, Any]]
) -> None:
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    folder = Path(shutil.copytree(folders / kind, tmp_path / "one"))
    for where, key, value in changes:
        if where == "tensor":
            rewrite(folder, replacing(key, value))
        elif where == "config":
            configured(folder, **{key: value})
        elif where == "card":
            reseal(folder, {"card": {key: value}})
        else:
            reseal(folder, {"deltas": {"layer1.0.conv1": {key: value}}})
    agree(folder)
