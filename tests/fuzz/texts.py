"""Doors of text: settings, files of stages, attacks, bases, data, ranks and sizes, names, command lines."""

import contextlib
import io
import json
import math
import sys
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from rich.console import Console

from loradar.attacks.parsing import named_attack, parse_attack
from loradar.cli.app import main
from loradar.cli.printing import Rows, escape
from loradar.core.config import Config, Settings, read_file, validate
from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.names import check_names
from loradar.core.ranks import parse_bytes, parse_rank
from loradar.data import load_source
from loradar.fewshot.config import FewShotEvalConfig, FewShotFitConfig, MetaTuneConfig
from loradar.fewshot.tasks import named_domain
from loradar.guard.config import GuardAuditConfig, GuardBuildConfig
from loradar.jobs import stages
from loradar.jobs.config import AuditConfig, CheckConfig, HardenConfig, PredictConfig, PretrainConfig
from loradar.jobs.members import plan
from loradar.models import load_base
from tests.data.pictures import png
from tests.fuzz.changes import TEXTS, Change, edited, odd, of_folder, places, spoil, texts
from tests.fuzz.doors import Door, held, require
from tests.fuzz.folders import ADAPTER, valid

ATTACKS = (
    *("pgd", "pgd:eps=4/255,steps=5", "pgd:norm=l2,eps=0.5", "fgsm:noise=1,step_size=1.25", "roa:height=7,width=7"),
    *(
        "fia-quick:steps=5",
        "pgd+fgsm|roa",
        "(pgd|roa)+fgsm",
        "(pgd|fgsm):seed=3",
        'fia:layer="a+b"',
        "pyramid",
        "noise",
    ),
    *("mi-fgsm:eps=0.031373", "apgd:loss=margin", "smooth:cells=8", 'msd:attacks="pgd+pgd:norm=l2"', "pgd:keep=best"),
)
SETTINGS: tuple[tuple[type[Settings], dict[str, Any]], ...] = (
    (PretrainConfig, {"architecture": "timm:test_resnet", "epochs": 3, "size": "32x48", "flip": False}),
    (HardenConfig, {"base": "b", "attacks": ["pgd", "roa:height=7"], "rank": {"layer2*": 32, "x": 4}, "out": "o"}),
    (HardenConfig, {"base": "b", "max_bytes": "400kB", "recipe": "strong", "clean_weight": 0.3}),
    (AuditConfig, {"base": "b", "adapter": ["a"], "effort": "quick", "device": "cuda:1", "batch_size": 7}),
    (PredictConfig, {"base": "b", "pictures": ["p.png"], "top": 2}),
    (CheckConfig, {"base": "b", "data": "digits", "size": 64, "seed": 5}),
    (GuardBuildConfig, {"base": "b", "adapter": ["x"], "attacks": ["pgd"], "respond": ["pgd=mask"], "max_fpr": 0.1}),
    (GuardAuditConfig, {"guard": "g", "fusion": ["mean"], "threat": ["transfer"], "max_test_images": 9}),
    (MetaTuneConfig, {"base": "b", "data": "digits", "eps_255": [0.1, 8], "setting": "3w1s"}),
    (FewShotFitConfig, {"support": "s", "pool": "p", "top": 2}),
    (FewShotEvalConfig, {"pool": "p", "domain": ["d=digits"], "setting": ["3w1s"], "attacks": ["pgd:steps=1"]}),
)
STAGES = """
vars: {seed: 0, name: x}
out: OUT-${seed}
stages:
  base: {job: pretrain, data: digits, epochs: 2, size: 32}
  harden: {job: harden, base: "${base}", data: digits, attacks: [pgd], seed: "${seed}"}
  audit: {job: audit, base: "${base}", adapter: ["${harden}/adapters/pgd"], publish: .}
  guard: {job: guard build, base: "${base}", adapter: ["${harden}/adapters/pgd"]}
"""
EDITS = st.lists(st.tuples(places, st.sampled_from(["drop", "set", "set", "add", "wrap"]), odd), min_size=1, max_size=3)


def _written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def _dumped(content: Any, how: str) -> str:
    try:
        return json.dumps(content) if how == "json" else str(yaml.safe_dump(content, allow_unicode=True))
    except (yaml.YAMLError, ValueError, OverflowError):  # a number that YAML's writer has no text for
        return json.dumps(content)


def config(given: tuple[int, Sequence[Any], str, Sequence[Any]], place: Path) -> None:
    index, edits, how, changes = given
    schema, settings = SETTINGS[index]
    content = json.loads(json.dumps(settings))
    for edit in edits:
        edited(content, *edit)
    path = _written(place / "valid" / f"one.{how}", _dumped(content, how))
    if changes:
        path = spoil(path.parent, place / "one", [(path.name, *change) for change in changes]).folder / path.name
    accepted = validate(schema, read_file(path))
    with held():
        is_run = issubclass(schema, Config)  # what is written to a run's folder, as JSON
        again = validate(schema, json.loads(accepted.model_dump_json()) if is_run else accepted.model_dump())
    require(again == accepted, f"{again} out of the dump of {accepted}")
    for name, value in accepted:
        for number in value if isinstance(value, list | tuple) else [value]:
            require(not isinstance(number, float) or math.isfinite(number), f"{name} is {number}")


def stage_file(given: tuple[str, Sequence[Any]], place: Path) -> None:
    text, edits = given
    if edits:
        content = yaml.safe_load(STAGES)
        for edit in edits:
            edited(content, *edit)
        text = _dumped(content, "yaml")
    out = place / "out"
    path = _written(place / "stages.yaml", text.replace("OUT", str(out)))
    job = stages.resolve(path)
    require(job.stages, "no stages")
    for stage in job.stages:
        with held():
            validate(type(stage.config), json.loads(stage.config.model_dump_json()))
        mark = (job.out / "stages" / f"{stage.name}.json").resolve()
        require(mark.parent == (job.out / "stages").resolve(), f"the mark of a stage leaves the out folder: {mark}")


def attack(text: str, _: Path) -> None:
    accepted = parse_attack(text)
    with held():
        again = parse_attack(accepted.spec)
    require(again == accepted, f"{accepted.spec!r} is {again}, not {accepted}")
    require(len(accepted.spec) < 10_000, "an endless spec")
    named_attack(text)


def base(text: str, _: Path) -> None:
    opened = load_base(text.replace("BASE", str(valid() / "base")))
    require(1 <= opened.num_classes <= 10**6, f"{opened.num_classes} classes")
    with held():
        again = load_base(opened.description["spec"])
    require(again.num_classes == opened.num_classes and again.input_size == opened.input_size, "another base")
    json.dumps(opened.description)


def data(given: tuple[str, tuple[int, int] | None], place: Path) -> None:
    text, size = given
    for name in ("a/1.png", "b/2.png"):
        _written(place / "pictures" / name, png(len(name)))
    source = load_source(text.replace("PICTURES", str(place / "pictures")), size=size)
    with held():
        images, labels = source.train.fetch(torch.arange(2))
    require(tuple(images.shape[2:]) == (size or tuple(images.shape[2:])), f"images of {tuple(images.shape)}")
    require(int(labels.max()) < len(source.classes), "a label that is no class")
    require(float(images.min()) >= 0 and float(images.max()) <= 1, "pixels outside [0, 1]")


def size(text: str, _: Path) -> None:
    """The same text as a rank and as a size; both refused is refused."""
    refused: LoradarError | None = None
    try:
        rules = parse_rank(text)
        again = parse_rank(",".join(f"{r.pattern}={'<=' if r.capped else ''}{r.rank}" for r in rules))
        require(again == rules, f"{again} out of {rules}")
        accepted = validate(HardenConfig, {"base": "b", "rank": text})
        require(validate(HardenConfig, json.loads(accepted.model_dump_json())) == accepted, "another rank")
    except LoradarError as error:
        refused = error
    count = None
    with contextlib.suppress(LoradarError):
        count = parse_bytes(text)
    if count is not None:
        require(count == _exact(text), f"{text!r} is {count} bytes, exactly {_exact(text)}")
        with contextlib.suppress(LoradarError):
            require(validate(HardenConfig, {"base": "b", "rank": None, "max_bytes": text}).max_bytes == count, "bytes")
    elif refused is not None:
        raise refused


def _exact(text: str) -> int:
    digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ").strip()
    unit = text.strip()[len(digits) :].strip().lower().removesuffix("b")
    times = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}[unit]
    return int((Decimal(digits) * times).to_integral_value(ROUND_HALF_EVEN))


def name(text: str, place: Path) -> None:
    """A name of an attack, a domain and an adapter: it stays in its folder, and is printed as it is."""
    file = io.StringIO()
    Console(file=file, markup=False, emoji=False, highlight=False, width=10**5, force_terminal=False).print(
        Rows(("name", "x"), [(text, 1)])
    )
    require(escape(text).strip() in file.getvalue(), f"{text!r} is printed as {file.getvalue()!r}")
    refused: LoradarError | None = None
    inside = place / "out"
    for given in ("attack", "domain", "adapter"):
        try:
            if given == "attack":
                given_settings = {"base": "b", "attacks": [f"{text}=pgd:steps=1"], "baselines": False}
                found = [member.name for member in plan(validate(HardenConfig, given_settings))]
            elif given == "domain":
                found = [named_domain(f"{text}=digits", size=(8, 8), seed=0).name]
            else:
                check_names([text], "an adapter")
                found = [text]
        except LoradarError as error:
            refused = error
            continue
        for one in found:
            path = inside / one
            require(path.parent == inside and one not in (".", ".."), f"the {given} {one!r} leaves its folder")
            require("\0" not in one, f"the {given} {one!r} is no name of a file")
    if refused is not None:
        raise refused


def command(given: tuple[list[str], Sequence[Change]], place: Path) -> None:
    """A command in this process, as `loradar` calls it: exit code 0 and an answer, or 2 and one line."""
    arguments, changes = given
    folder = place / "adapter"
    spoil(valid() / "schema-2", folder, changes)
    picture = _written(place / "picture.png", png(1))
    names = {"BASE": str(valid() / "base"), "ADAPTER": str(folder), "PICTURE": str(picture), "PLACE": str(place)}
    for key, path in names.items():
        arguments = [argument.replace(key, path) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["loradar", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    require(code in (0, 2), f"exit code {code}: {err.getvalue()[-300:]}")
    require("Traceback" not in err.getvalue(), err.getvalue()[-300:])
    if code == 2:
        require(err.getvalue().startswith("loradar: "), f"no line: {err.getvalue()[:300]!r}")
        require(len(err.getvalue().splitlines()) == 1, f"more than a line: {err.getvalue()[:600]!r}")
        require(len(err.getvalue()) < 8000, "an endless line")
        raise BadConfigError(err.getvalue())
    if "--json" in arguments and "--help" not in arguments:
        json.loads(out.getvalue())


_BASES = (
    *("timm:test_resnet:pretrained=false,num_classes=3", "BASE", "stages:BASE", "resnet18-cifar:pretrained=false"),
    *("timm:test_vit:pretrained=false,num_classes=4,img_size=32", "timm:test_resnet:pretrained=false,seed=4"),
    *("timm:test_resnet:pretrained=false,num_classes=3,mean=0.5/0.5/0.5,std=0.2/0.2/0.2", "hub:timm/test_resnet"),
    *("BASE/model.safetensors:architecture=timm:test_resnet,num_classes=4,size=32", "timm:test_resnet"),
)
_LINES: tuple[list[str], ...] = (
    ["attacks", "show", "pgd"],
    ["attacks", "show", "fia-quick", "--json"],
    ["adapters", "show", "ADAPTER"],
    ["adapters", "show", "ADAPTER", "--json"],
    ["adapters", "list", "PLACE", "--json"],
    ["adapters", "verify", "ADAPTER"],
    ["inspect", "BASE", "--target-modules", "block-conv1", "--rank", "4"],
    ["predict", "PICTURE", "--base", "BASE", "--top", "2", "--json"],
    ["predict", "PICTURE", "--base", "BASE", "--adapter", "ADAPTER"],
    ["report", "PLACE"],
    ["run", "PLACE/stages.yaml", "--set", "seed=1"],
)


@st.composite
def _lines(draw: st.DrawFn) -> list[str]:
    """A command with an argument changed, dropped or added; never the command itself, which may take long."""
    line = list(draw(st.sampled_from(_LINES)))
    how = draw(st.sampled_from(["none", "change", "change", "drop", "add"]))
    index = draw(st.integers(min(2, len(line) - 1), len(line) - 1))
    if how == "change":
        line[index] = draw(texts([line[index]]))
    elif how == "drop":
        del line[index]
    elif how == "add":
        line.append(draw(st.sampled_from([*TEXTS, "--json", "--help", "--top", "--device=meta", "--batch-size=0"])))
    return line


DOORS: dict[str, Door] = {
    "settings": Door(
        st.tuples(
            st.integers(0, len(SETTINGS) - 1),
            EDITS,
            st.sampled_from(["yaml", "json"]),
            st.just([]) | of_folder("x").map(lambda changes: [change[1:] for change in changes]),
        ),
        config,
        6,
    ),
    "stages": Door(st.tuples(texts([STAGES]), st.just([])) | st.tuples(st.just(STAGES), EDITS), stage_file),
    "attack": Door(texts(ATTACKS), attack, 8),
    "base's name": Door(texts(_BASES), base),
    "data's name": Door(
        st.tuples(
            texts(["digits", "PICTURES", "PICTURES:image=a", "hub:a/b", "PICTURES/a", "x.parquet:label=l"]),
            st.none() | st.sampled_from([(8, 8), (5, 9)]),
        ),
        data,
    ),
    "rank and size": Door(
        texts(["4", "<=8", "8,layer2*=32,layer4*=4", "layer1=<=3", "400kB", "2.5MB", "1 GiB", "273463"]), size, 6
    ),
    "name": Door(texts(["pgd", "my-pgd", "a.b", "roa_7", "[red]x[/]", ":smile:", "é"]), name, 4),
    "command line": Door(
        st.tuples(_lines(), st.one_of(st.just([]), st.just([]), of_folder(*ADAPTER, "loradar.json"))), command
    ),
}
