"""What the commands have to say: figures, adapters, bases, predictions."""

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from loradar.adapters import (
    Adapter,
    find_heads,
    find_norms,
    find_targets,
    fingerprint,
    init_adapter,
    load,
    rank_in_words,
    target_share,
)
from loradar.cli.printing import Facts, Output, Rows
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_WEIGHTS
from loradar.core.remote import local_folder
from loradar.evaluation import AccuracyResult, labels, short_names
from loradar.evaluation.intervals import wilson
from loradar.jobs.config import HardenConfig
from loradar.jobs.export import Exported
from loradar.jobs.factor import FactorResult
from loradar.jobs.harden import HardenResult
from loradar.jobs.predict import Prediction
from loradar.models import load_base
from loradar.report.files import read_report


def percent(row: AccuracyResult) -> str:
    """A share with its interval: `91.0 % (88.2-93.2)`."""
    return f"{100 * row.share:.1f} % ({100 * row.low:.1f}-{100 * row.high:.1f})"


def summary(page: Path, *, adapters: Path | None = None) -> Output:
    """The figures of the report beside `page`, and where everything lies."""
    rows = read_report(page.parent).rows
    models, attacks = labels(rows), short_names(row.attack for row in rows)
    table = Rows(
        ("model", "attack", "threat", "right (95 % interval)", "n"),
        [(models[row.candidate], attacks[row.attack], row.knowledge, percent(row), row.total) for row in rows],
    )
    places = {"report": page} if adapters is None else {"adapters": adapters, "report": page}
    return Output(
        text=[table, *(f"{name}: {place}" for name, place in places.items())],
        data={"rows": [_row(row) for row in rows], **places},
    )


def next_commands(config: HardenConfig, done: HardenResult) -> list[str]:
    """What to do with the first adapter of a run, ready to be copied; the base is the one that it belongs to."""
    if not done:
        return []
    name, adapter = next(iter(done.items()))
    base, folder = str(adapter.card.data.get("base", config.base)), str(config.out / "adapters" / name)
    audit = ["audit", base, "--adapter", folder, "--data", config.data]
    if config.size is not None:
        audit += ["--size", "x".join(map(str, config.size))]
    # others than the run's own may be images that the adapter was trained on
    audit += [] if config.max_test_images is None else ["--max-test-images", str(config.max_test_images)]
    audit += ["--seed", str(config.seed)] if config.seed else []
    commands = (audit, ["export", folder, "--base", base, "--to", "onnx"], ["serve", folder, "--base", base])
    return [f"next: loradar {shlex.join(command)}" for command in commands]


def _row(row: AccuracyResult) -> dict[str, object]:
    return dataclasses.asdict(row) | {"share": row.share}


def int8(done: Exported) -> list[str]:
    """Right answers of an exported file beside its model's, and what was not measured."""
    found = done.comparison
    if found.right is None:
        said = f"accuracy was not counted: {done.uncounted}"
    else:
        bounds = [wilson(count, found.total) for count in found.right]
        shares = [
            f"{count} in {kind} ({100 * low:.1f}-{100 * high:.1f} %)"
            for kind, count, (low, high) in zip(("float32", "int8"), found.right, bounds, strict=True)
        ]
        said = f"right answers of {found.total} (95 % interval): {', '.join(shares)}"
    return [said, "robustness of the int8 file was not measured: see docs/export.md and benchmarks/exports.py"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """An adapter folder in a list; `error` says why it cannot be opened."""

    name: str = ""
    folder: Path
    trained_against: str = ""
    base_fingerprint: str = ""
    ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    bytes: int
    error: str = ""


def listing(folder: Path) -> Output:
    """The adapters below `folder`. Raises BadFileError where there is none."""
    places = sorted(path.parent for path in folder.rglob(ADAPTER_WEIGHTS) if "epochs" not in path.parts)
    if not places:
        raise BadFileError(
            f"no adapter below {folder}; expected folders with {ADAPTER_WEIGHTS}, as `loradar harden` writes them"
        )
    entries = [_entry(place) for place in places]
    table = Rows(
        ("adapter", "trained against", "base", "rank", "bytes", "folder"),
        [
            (
                entry.name or "-",
                entry.error or entry.trained_against or "unknown",
                entry.base_fingerprint[:12] or "unknown",
                _span(entry.ranks.values()),
                f"{entry.bytes:,}",
                entry.folder.relative_to(folder),
            )
            for entry in entries
        ],
    )
    return Output(text=[table], data=entries)


def _entry(folder: Path) -> Entry:
    size = (folder / ADAPTER_WEIGHTS).stat().st_size
    try:
        adapter = load(folder)
    except LoradarError as error:
        return Entry(folder=folder, bytes=size, error=str(error))
    card = adapter.card
    return Entry(
        name=card.name,
        folder=folder,
        trained_against=card.trained_against,
        base_fingerprint=card.base_fingerprint,
        ranks=adapter.ranks,
        bytes=size,
    )


def _span(ranks: Collection[int]) -> str:
    """The least and the largest of the ranks: "4-64"."""
    return "-".join(str(rank) for rank in sorted({min(ranks), max(ranks)})) if ranks else "-"


def card(folder: Path) -> Output:
    """An adapter's card, and the figures that were measured of it."""
    adapter = load(folder := local_folder(folder))
    rows = [AccuracyResult(**values) for values in adapter.card.measured]
    names = short_names(row.attack for row in rows)
    table = Rows(
        ("attack", "threat", "right (95 % interval)", "n"),
        [(names[row.attack], row.knowledge, percent(row), row.total) for row in rows],
    )
    card = dataclasses.asdict(adapter.card) | {"measured": [_row(row) for row in rows]}
    size = (folder / ADAPTER_WEIGHTS).stat().st_size
    data = card | {"folder": folder, "layers": list(adapter.deltas), "ranks": adapter.ranks, "bytes": size}
    return Output(text=[Facts(_facts(adapter, size)), *(("", table) if rows else ())], data=data)


def _facts(adapter: Adapter, size: int) -> dict[str, str]:
    card = adapter.card
    return {
        "name": card.name,
        "base": card.base_fingerprint or "unknown",
        "layers": ", ".join(adapter.deltas) or "none",
        "rank": rank_in_words(adapter.ranks).removeprefix("rank "),
        "start": f"{card.init}, lora_alpha {f'{card.lora_alpha:g}' if card.lora_alpha else 'the rank'}",
        "head": card.head or "the base's",
        "trained whole": ", ".join(card.modules_to_save) or "nothing",
        **({"classes": ", ".join(card.classes)} if card.classes else {}),
        "normalisation": card.norm,
        "trained against": f"{card.trained_against or 'unknown'} on the {card.attack_target or 'unknown'} model",
        "data": str(card.data.get("source", "unknown")),
        "size": f"{size:,} bytes",
        "created": f"{card.created or 'unknown'} by loradar {card.loradar_version}",
    }


def inspection(spec: str, targets: list[str], rank: int | str) -> Output:
    """A base's facts, and every layer that can take an update: which the targets cover, and what that costs."""
    base = load_base(spec)
    covered = set(find_targets(base.model, targets))
    adapter = init_adapter(base.model, target_modules=targets, rank=rank)
    layers = [
        {
            "name": name,
            "kind": type(module).__name__,
            "weight": list(module.weight.shape),
            "largest_rank": min(len(module.weight), module.weight[0].numel()),
            "target": name in covered,
        }
        for name, module in unwrap(base.model).named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim > 1
    ]
    count = sum(tensor.numel() for tensor in adapter.parameters())
    heads, share = find_heads(base.model), target_share(base.model, covered)
    facts = {
        "base": spec,
        "architecture": base.description["architecture"],
        "input size": "x".join(map(str, base.input_size)),
        "classes": f"{base.num_classes:,}",
        "parameters": f"{sum(parameter.numel() for parameter in base.model.parameters()):,}",
        "fingerprint": fingerprint(base.model),
        "head": ", ".join(heads),
        "layers with running statistics": len(find_norms(base.model)),
        "targets": f"{' '.join(targets)}: {len(covered)} layers, {share:.0%} of the parameters below the head",
        "adapter": f"{count:,} parameters at rank {rank}, about {4 * count / 1000:,.0f} kB",
    }
    table = Rows(
        ("layer", "kind", "weight", "largest rank", "target"),
        [
            (e["name"], e["kind"], "x".join(map(str, e["weight"])), e["largest_rank"], "yes" if e["target"] else "")
            for e in layers
        ],
    )
    data = {
        **{key: base.description[key] for key in ("architecture", "num_classes", "input_size")},
        "base": spec,
        "fingerprint": facts["fingerprint"],
        "heads": heads,
        "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "adapter": {"target_modules": sorted(covered), "share": share, "rank": rank, "parameters": count},
        "layers": layers,
    }
    return Output(text=[Facts(facts), "", table], data=data)


def predictions(results: Sequence[Prediction]) -> Output:
    """The most probable classes of each picture, a line each."""
    table = Rows(
        ("image", "class", "probability"),
        [(one.image, name, f"{100 * share:.1f} %") for one in results for name, share in one.classes],
    )
    data = [
        {"image": one.image, "classes": [{"class": name, "probability": share} for name, share in one.classes]}
        for one in results
    ]
    return Output(text=[table], data=data)


def factored(result: FactorResult, folder: Path) -> Output:
    """What an adapter of a tuned model lost, layer by layer, and the clean accuracy where it was measured."""
    found, ranks = result.factored, result.factored.adapter.ranks
    card = found.adapter.card
    table = Rows(
        ("layer", "rank", "relative error"),
        [(layer, ranks.get(layer, 0), f"{error:.2%}") for layer, error in found.errors.items()],
    )
    facts = {
        "relative error in total": f"{found.error:.2%}",
        "head": card.head or "the base's",
        "normalisation": card.norm,
        **{f"clean accuracy, {row.model}": f"{percent(row)} of {row.total}" for row in result.rows},
        "size": f"{result.bytes:,} bytes",
        "folder": folder,
    }
    data = {"folder": folder, "ranks": ranks, "errors": found.errors, "error": found.error, "bytes": result.bytes}
    return Output(text=[table, "", Facts(facts)], data=data | {"rows": [_row(row) for row in result.rows]})
