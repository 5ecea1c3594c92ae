"""Adapters to other libraries: our attacks as theirs, robust accuracy in their training. Each is imported when it is used."""

from loradar.integrations.attacks import art_attack, foolbox_attack
from loradar.integrations.callbacks import lightning_callback, trainer_callback

__all__ = ["art_attack", "foolbox_attack", "lightning_callback", "trainer_callback"]
