"""A server of guards, tasks, adapters and bases over HTTP."""
