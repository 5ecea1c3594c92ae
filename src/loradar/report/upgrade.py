"""Brings a report.json of schema 1 to schema 2."""

from typing import Any

from loradar.core.old_attacks import with_specs

SCHEMA = 2


def upgrade(values: Any) -> dict[str, Any]:
    """Returns the fields of a `Report`, from the values of a report.json. Raises ValueError for what is none.

    Schema 1 had few-shot reports of their own shape, no sections and no date.
    """
    if not isinstance(values, dict):
        raise ValueError("expected an object at its top")
    fields = dict(values)
    schema = fields.pop("schema", None)
    if schema not in (1, SCHEMA):
        raise ValueError(f"it has schema {schema!r}; this version reads 1 and {SCHEMA}")
    return fields if schema == SCHEMA else _from_1(fields)


def _from_1(values: dict[str, Any]) -> dict[str, Any]:
    values = with_specs(values)
    if not isinstance(values.get("rows"), list):
        raise ValueError("expected a list of rows")
    if "full" in values:
        return _few_shot_from_1(values)
    models = [str(row.get("model")) for row in values["rows"] if isinstance(row, dict)]
    training = {
        new: values.pop(old)
        for new, old in (("curves", "curves"), ("reload_checks", "replugged"), ("last_epoch", "last_epoch"))
        if old in values
    }
    guard: dict[str, Any] = {key: values.pop(key) for key in ("cost", "reliabilities", "suspects") if key in values}
    if isinstance(found := values.pop("identification", None), dict):
        names = {"false_alarms": "fpr95", "error": "calibration_error"}
        found = {names.get(key, key): value for key, value in found.items()}
    if found:
        guard["identification"] = found
    return {
        **values,
        "created": "",
        "baselines": tuple(dict.fromkeys(name for name in models if _is_baseline(name, models[0]))),
        **({"training": training} if training else {}),
        **({"guard": guard} if guard else {}),
    }


def _few_shot_from_1(values: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = {
        key: values.pop(key) for key in ("rows", "full", "pool", "blends", "tasks") if key in values
    }
    section |= {"ablation_chain": values.pop("ladder", {}), "reference": "no tuning"}
    return {**values, "rows": (), "created": "", "few_shot": section}


def _is_baseline(name: str, first: str) -> bool:
    """By name: schema 1 says it nowhere else. A guard's report begins with the guard that it is about."""
    if first.startswith("guard:"):
        return name not in (first, "base")
    return name in ("fc-only", "fc+norm") or name.endswith("-zeros")
