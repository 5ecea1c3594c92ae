"""Named tables of settings, from which single ones may depart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Presets:
    """Tables of settings by name, and a line `about` each; the setting `key` names the one to take, `default` unless given.

    >>> presets = Presets(key="speed", default="low", tables={"low": {"steps": 9}}, about={"low": "exact"})
    >>> presets.filled({"rate": 1}), presets.in_words()
    ({'steps': 9, 'rate': 1}, 'low (default): exact (steps 9).')
    """

    key: str
    default: str
    tables: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, str]

    def of_default(self, setting: str) -> Any:
        """Returns what a setting is in the default table."""
        return self.tables[self.default][setting]

    def filled(self, settings: Any) -> Any:
        """Returns `settings` with those of their table that they do not give; anything but a table of settings as it is."""
        if not isinstance(settings, dict):
            return settings
        name = settings.get(self.key, self.default)
        # what names no table, and what is no name, the schema refuses
        return {**self.tables[name], **settings} if isinstance(name, str) and name in self.tables else settings

    def in_words(self) -> str:
        """Returns the tables for the help."""
        blocks = []
        for name, settings in self.tables.items():
            values = ", ".join(f"{key.replace('_', '-')} {_text(value)}" for key, value in settings.items())
            blocks.append(f"{name}{' (default)' if name == self.default else ''}: {self.about[name]} ({values}).")
        return "\n\n".join(blocks)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
