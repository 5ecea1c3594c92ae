"""Logs as JSON, an object per line, on standard error. Nothing of an image and no key is ever logged."""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname.lower(),  # `level` is a guard's
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["error"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


class _ToStderr(logging.Handler):
    """Writes to what standard error is at that moment, which whoever runs the command may change."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as every handler: a line that cannot be written stops no answer
            self.handleError(record)


def log_to_stderr() -> None:
    """Sends the server's own lines, and what uvicorn and asyncio warn of, to standard error.

    What a form's parser makes of a client's bytes is no warning of ours: the client is told.
    """
    handler = _ToStderr()
    handler.setFormatter(JsonLines())
    levels = {"loradar.serve": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.WARNING}
    for name, level in (levels | {"python_multipart": logging.ERROR}).items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
