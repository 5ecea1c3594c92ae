"""A server of guards, tasks, adapters and bases over HTTP, and its client."""

from loradar.serve.client import Client

__all__ = ["Client"]
