"""The README.md of an adapter's folder."""

from collections.abc import Mapping
from typing import Any

from loradar.adapters.card import Card
from loradar.adapters.ranks import rank_in_words
from loradar.core.markdown import code, printable, text

_PEFT = """With PEFT, on the bare backbone (it expects the pixels as the backbone does, that is, normalised):

```python
from peft import PeftModel

model = PeftModel.from_pretrained(backbone, "PATH/TO/THIS/FOLDER")
```
"""

_NO_PEFT = """PEFT refuses this folder: its LoRA has no counterpart for some of these layers (dilated, grouped or
specially padded convolutions, layers whose weight is used without them), and would compute something else.
"""


def model_card(card: Card, ranks: Mapping[str, int], *, readable: bool, size: int) -> str:
    """Markdown: what it is, how to load it, what was measured. `size` is that of the weights, in bytes."""
    layers = ", ".join(map(code, ranks)) or "none"
    against = code(card.trained_against) if card.trained_against else "not recorded"
    on = {"base": ", computed on the unmodified base", "defended": ", computed on the defended model"}
    whole = ", ".join(map(code, card.modules_to_save)) or "nothing"
    # folders of the machine that made it are not for others to read
    data = ", ".join(f"{key} {value}" for key, value in card.data.items() if key not in ("base", "support"))
    lines = [
        "---",
        "library_name: peft" if readable else "library_name: loradar",
        "tags: [lora, loradar, adversarial-robustness, image-classification]",
        "---",
        "",
        f"# {text(card.name)}",
        "",
        "A low-rank adapter for a frozen image classifier, made by loradar.",
        "",
        f"- trained against: {against}{on.get(card.attack_target, '')}",
        f"- base: fingerprint {code(card.base_fingerprint or 'unknown')}",
        f"- low-rank layers: {layers}; {rank_in_words(ranks)}, start {card.init}",
        f"- trained whole: {whole}; normalisation: {card.norm}",
        f"- data: {text(data) or 'not recorded'}; seed {card.seed}",
        f"- size of the weights: {size:,} bytes; loradar {card.loradar_version}, {card.created or 'undated'}",
        "",
        "## Use",
        "",
        "```python",
        "from loradar.adapters import load, plug",
        "",
        'model = plug(base, load("PATH/TO/THIS/FOLDER"))  # base: images in [0, 1] to logits; it stays as it is',
        "```",
        "",
        _PEFT if readable else _NO_PEFT,
        "## Measured",
        "",
        *_table(card.measured),
    ]
    return printable("\n".join(lines)) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Nothing yet."]
    head = ["| attack | threat | right | accuracy | 95 % interval | seed |", "|---|---|---|---|---|---|"]
    return head + [_row(row) for row in rows]


def _row(row: dict[str, Any]) -> str:
    correct, total = row.get("correct"), row.get("total")
    share = f"{correct / total:.1%}" if isinstance(correct, int) and isinstance(total, int) and total else ""
    low, high = row.get("low"), row.get("high")
    interval = f"{low:.1%} to {high:.1%}" if isinstance(low, float) and isinstance(high, float) else ""
    attack, threat, seed = (text(row.get(key, "")) for key in ("attack", "threat", "seed"))
    return f"| {attack} | {threat} | {correct} of {total} | {share} | {interval} | {seed} |"
