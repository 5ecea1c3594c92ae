"""What the command line prints: figures, adapters, bases."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from loradar.adapters import Adapter, find_head, find_norms, find_targets, fingerprint, init_adapter, load, verify
from loradar.core.errors import BadFileError, LoradarError
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_WEIGHTS
from loradar.evaluation import AccuracyResult, labels, short_names
from loradar.models import load_base
from loradar.report.files import read_report


def percent(row: AccuracyResult) -> str:
    """A share with its interval: `91.0 % (88.2-93.2)`."""
    return f"{100 * row.share:.1f} % ({100 * row.low:.1f}-{100 * row.high:.1f})"


def summary(folder: Path) -> RenderableType:
    """The figures of a report, a line each."""
    rows = read_report(folder).rows
    models, attacks = labels(rows), short_names(row.attack for row in rows)
    table = Table("model", "attack", "threat", "right (95 % interval)", "n", box=None, header_style="bold")
    for row in rows:
        table.add_row(models[row.candidate], attacks[row.attack], row.threat, percent(row), str(row.total))
    return table


def short(setting: str, width: int = 60) -> str:
    """A setting's repr as far as there is room."""
    return setting if len(setting) <= width else f"{setting[: width - 3]}..."


def listing(folder: Path) -> RenderableType:
    """The adapters below `folder`. Raises BadFileError where there is none."""
    found = sorted(path.parent for path in folder.rglob(ADAPTER_WEIGHTS) if "epochs" not in path.parts)
    if not found:
        raise BadFileError(
            f"no adapter below {folder}; expected folders with {ADAPTER_WEIGHTS}, as `loradar harden` writes them"
        )
    table = Table("adapter", "folder", "trained against", "base", "rank", "bytes", box=None, header_style="bold")
    for path in found:
        size = f"{(path / ADAPTER_WEIGHTS).stat().st_size:,}"
        try:
            card = load(path).card
        except LoradarError as error:
            table.add_row("-", str(path), f"[red]{error}", "", "", size)
            continue
        against = short(card.trained_against or "not said")
        table.add_row(card.name, str(path), against, card.base_fingerprint[:12] or "not said", str(card.rank), size)
    return table


def card(folder: Path) -> RenderableType:
    """What an adapter says of itself."""
    adapter = load(folder)
    table = Table(box=None, show_header=False)
    for name, value in _facts(adapter, folder).items():
        table.add_row(f"[bold]{name}", value)
    rows = Table("attack", "threat", "right", "n", box=None, header_style="bold")
    for values in adapter.card.measured:
        row = AccuracyResult(**values)
        rows.add_row(short(row.attack), row.threat, percent(row), str(row.total))
    return Group(table, "", rows) if adapter.card.measured else table


def _facts(adapter: Adapter, folder: Path) -> dict[str, str]:
    card = adapter.card
    return {
        "name": card.name,
        "base": card.base_fingerprint or "not said",
        "targets": ", ".join(adapter.deltas) or "none",
        "rank": f"{card.rank}, alpha {card.lora_alpha:g}, start {card.init}",
        "head": card.head or "the base's",
        "normalisation": card.norm,
        "trained against": f"{card.trained_against or 'not said'} on the {card.attack_target or 'unknown'} model",
        "data": str(card.data.get("source", "not said")),
        "size": f"{(folder / ADAPTER_WEIGHTS).stat().st_size:,} bytes",
        "made": f"{card.created or 'not said'} by loradar {card.loradar_version}",
    }


def verified(folder: Path, base: str) -> str:
    """One line where all is well. Raises BadFileError with everything that is wrong otherwise."""
    problems = verify(folder, load_base(base).model)
    if problems:
        raise BadFileError("; ".join(problems))
    return f"{folder} is whole and belongs to {base}"


def inspection(spec: str, targets: list[str], rank: int) -> RenderableType:
    """A base's facts, and every layer that can take a delta: which the targets hit, and what that costs."""
    base = load_base(spec)
    hit = set(find_targets(base.model, targets))
    adapter = init_adapter(base.model, target_modules=targets, rank=rank)
    layers = Table("layer", "kind", "weight", "largest rank", "target", box=None, header_style="bold")
    for name, module in unwrap(base.model).named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim < 2:
            continue
        limit = str(min(len(weight), weight[0].numel()))
        layers.add_row(
            name, type(module).__name__, "x".join(map(str, weight.shape)), limit, "yes" if name in hit else ""
        )
    count = sum(tensor.numel() for tensor in adapter.parameters())
    total = sum(parameter.numel() for parameter in base.model.parameters())
    facts = (
        f"architecture {base.description['architecture']}, input {'x'.join(map(str, base.input_size))}, "
        f"{base.num_classes} classes, {total:,} parameters\n"
        f"fingerprint {fingerprint(base.model)}\n"
        f"head {find_head(base.model)}; {len(find_norms(base.model))} layers with running statistics\n"
        f"an adapter of rank {rank} on {len(hit)} layers: {count:,} parameters, about {4 * count / 1000:,.0f} kB"
    )
    return Group(facts, "", layers)
