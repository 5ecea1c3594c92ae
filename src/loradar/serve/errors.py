"""What a server declines to do, in one line for its client."""

from loradar.core.errors import LoradarError


class Refused(LoradarError):  # noqa: N818
    """A request that is declined; `status` is HTTP's, `retry_after` the seconds after which it may come again.

    The line names nothing of the server's own: no path, no key, no place in the code.
    """

    def __init__(self, status: int, line: str, *, retry_after: int | None = None) -> None:
        super().__init__(line)
        self.status, self.retry_after = status, retry_after
