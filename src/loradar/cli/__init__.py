"""The command line."""

from loradar.cli.app import main

__all__ = ["main"]
