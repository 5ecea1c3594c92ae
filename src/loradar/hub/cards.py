"""Model cards: a README.md whose metadata (`model-index`) are what was measured, each figure with its n and interval."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from loradar.adapters import Card
from loradar.attacks import parse_attack
from loradar.core.balls import L2, Linf
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.markdown import code, printable, text
from loradar.evaluation import NO_ATTACK, AccuracyResult, short_names
from loradar.fewshot.fit import HELD_OUT
from loradar.guard.files import GuardRecord

_TAGS = ["loradar", "adversarial-robustness", "image-classification"]
_ROWS = TypeAdapter(list[AccuracyResult])
_FROM = "## From the hub"
_USE = {
    "guard": 'guard = loradar.Guard.open("{place}")  # its base is fetched too',
    "task": 'task = loradar.FewShotClassifier.load("{place}")  # its base is fetched too',
    "pool": 'task = loradar.FewShotClassifier("{base}", "{place}").fit(x, labels)',
    "base": 'base = loradar.load_base("{place}")  # base.model: images in [0, 1] to logits',
    "adapter": 'model = loradar.plug("{base}", "{place}")  # images in [0, 1] to logits',
}


def results_of_adapter(card: Card) -> list[EvalResult]:
    """The figures on an adapter's or a task's card; those that are too high by their making are left out.

    Raises BadFileError for rows that are no figures.
    """
    held_out = card.data.get(HELD_OUT)
    own = held_out.get("rows", ()) if isinstance(held_out, Mapping) and not held_out.get("flattered") else ()
    on_support = "support images, each left out in turn"
    rows = [*((row, "") for row in _rows(card.measured)), *((row, on_support) for row in _rows(own))]
    names = short_names(row.attack for row, _ in rows)
    source = str(card.data.get("source") or card.data.get("support") or "")
    return [_result(row, names[row.attack], source, on) for row, on in rows]


def _rows(values: object) -> list[AccuracyResult]:
    try:
        return _ROWS.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFileError(f"the card's figures are damaged at {where}: {first['msg']}; get the folder anew") from error


def results_of_guard(record: GuardRecord) -> list[EvalResult]:
    """What the chosen answer kept, clean and under every attack on itself, where that was measured to its end."""
    choice = record.choice
    kept = choice and choice.kept.get(choice.answered_by or f"guard:{choice.fusion}")
    if not kept or kept.bound or not kept.total:
        return []
    row = AccuracyResult.count(
        model="guard", attack=NO_ATTACK, threat="adaptive", correct=kept.right, total=kept.total, seed=0
    )
    attacks = [{"attack": spec, **_set_of(spec)} for spec in record.attacks.values()]
    args = {"threat": "adaptive", "attacks": attacks, "n": row.total, "low": row.low, "high": row.high}
    name = f"right both clean and under every attack on the guard itself (adaptive), {_interval(row)}"
    return [_as_metric(row, name, args, str(record.data.get("source", "")), "held-out calibration images")]


def card_of(
    *,
    kind: str,
    repo: str,
    base: str,
    fingerprint: str,
    license_name: str | None,
    results: Sequence[EvalResult],
    before: str,
) -> str:
    """Returns README.md. `before` is the folder's own, whose text and further metadata stay; "" for none."""
    try:
        old = ModelCard(before, ignore_metadata_errors=True) if before else None
    except (ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BadFileError(
            f"the metadata of README.md cannot be read: {reason:.200}; mend it, or remove the file"
        ) from error
    data: dict[str, Any] = dict(old.data.to_dict()) if old else {}  # type: ignore[no-untyped-call]
    data.pop("model-index", None)
    data = {"library_name": "loradar", "pipeline_tag": "image-classification"} | data
    data["tags"] = list(dict.fromkeys([*data.get("tags", ()), *_TAGS]))
    if license_name:
        data["license"] = license_name
    if found := re.search(r"(?:^|:)hub:([^@:]+)", base):
        data["base_model"] = found[1]
    name = repo.rpartition("/")[2]
    known = ModelCardData(model_name=name, eval_results=list(results) or None, **data)
    if not results:
        known.pop("model_name")
    body = old.text.partition(_FROM)[0].strip() if old else _body(kind, name, base, fingerprint, results)
    place = f"hub:{repo}"
    use = _USE[kind].format(place=place, base=base or "YOUR/BASE")
    lines = [body, "", _FROM, "", "```python", "import loradar", "", use, "```"]
    return f"---\n{known.to_yaml()}\n---\n\n{printable(chr(10).join(lines))}\n"


def _body(kind: str, name: str, base: str, fingerprint: str, results: Sequence[EvalResult]) -> str:
    lines = [f"# {text(name)}", "", f"A {kind} made by loradar."]
    if kind != "base":
        lines += ["", f"Base: {code(base or 'not named')}, fingerprint {code(fingerprint or 'unknown')}."]
    if results:
        lines += ["", *(f"- {text(one.metric_name)}" for one in results)]
    return "\n".join(lines)


def _result(row: AccuracyResult, attack: str, source: str, on: str) -> EvalResult:
    against = "on clean images" if row.attack == NO_ATTACK else f"under {attack}, {row.knowledge}"
    within = _set_of(row.attack)
    limits = ", ".join(f"{key} {each if isinstance(each, str) else f'{each:.4g}'}" for key, each in within.items())
    name = f"accuracy {against}{f' ({limits})' if limits else ''}, {_interval(row)}"
    args = {"attack": row.attack, "threat": row.threat, "effort": row.effort, **within}
    args |= {"n": row.total, "low": row.low, "high": row.high, "seed": row.seed}
    return _as_metric(row, name, args, source, on)


def _as_metric(row: AccuracyResult, name: str, args: dict[str, Any], source: str, on: str) -> EvalResult:
    # not the folders that it lies in on the publisher's machine
    source = source if source.startswith("hub:") else PurePath(source).name
    source = source or "not recorded"
    return EvalResult(
        task_type="image-classification",
        dataset_type=re.sub(r"[^\w.-]+", "-", source).strip("-") or "unknown",
        dataset_name=f"{source}: {on}" if on else source,
        dataset_args={"images": on} if on else None,
        dataset_config=on or None,
        metric_type="accuracy",
        metric_value=round(row.share, 6),
        metric_name=name,
        metric_args={key: value for key, value in args.items() if value != ""},
    )


def _interval(row: AccuracyResult) -> str:
    return f"n = {row.total}, 95 % interval {100 * row.low:.1f}-{100 * row.high:.1f} %"


def _set_of(spec: str) -> dict[str, Any]:
    """The set that images move in under an attack: norm and eps (pixels in [0, 1]), or a rectangle; {} where it is another."""
    try:
        region = None if spec == NO_ATTACK else parse_attack(spec).traits.region
    except LoradarError:  # of a package that is not installed here
        return {}
    if isinstance(region, Linf | L2):
        return {"norm": type(region).__name__.lower(), "eps": region.radius}
    return {"rectangle": "x".join(map(str, region))} if isinstance(region, tuple) else {}
