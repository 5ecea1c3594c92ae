"""Several processes that train one adapter: each takes its slice of every batch, and all take the same step.

torchrun starts them and says who is who; see `docs/scaling.md`.
"""

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.torchrun import launched

_PATIENCE = timedelta(days=7)
"""The others wait so long for the first process, which alone measures and writes."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train together, seen from the one of number `rank`. Of a single one, nothing is asked.

    The first one alone writes and prints. All methods but `slice_of` must be called by every process, in the same order; they
    raise LoradarError where another process has ended.
    """

    rank: int = 0
    size: int = 1

    def slice_of(self, count: int) -> slice:
        """Returns which of the `count` images of a batch are this process's; sizes differ by one at most.

        >>> [World(rank=rank, size=2).slice_of(5) for rank in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor], *, batch: int) -> None:
        """Puts the mean over the processes, weighed by their slices of a `batch`, in the place of each of the `tensors`.

        They are of one device, and travel as one tensor.
        """
        if self.size == 1:
            return
        own = self.slice_of(batch)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors]) * ((own.stop - own.start) / batch)
        flat = flat if flat.is_cuda else flat.cpu()
        _ask(torch.distributed.all_reduce, flat)
        for tensor, mean in zip(tensors, torch.split(flat, [each.numel() for each in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @torch.no_grad()
    def take_first(self, tensors: Sequence[Tensor]) -> None:
        """Puts the bits of the first process's `tensors` in the place of everyone's, once it calls this too."""
        if self.size == 1:
            return
        flat = torch.cat([_bytes(tensor) for tensor in tensors])
        _ask(torch.distributed.broadcast, flat, 0)
        for tensor, bits in zip(
            tensors, torch.split(flat, [t.numel() * t.element_size() for t in tensors]), strict=True
        ):
            tensor.copy_(bits.clone().view(tensor.dtype).view(tensor.shape))

    def check_same(self, what: str, parts: Sequence[Tensor | str]) -> None:
        """Raises LoradarError, in every process, unless `parts` have the same bits in all of them."""
        if self.size == 1:
            return
        code = 0
        for part in parts:
            code = zlib.crc32(part.encode() if isinstance(part, str) else _bytes(part).numpy().tobytes(), code)
        codes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        _ask(torch.distributed.all_gather, codes, torch.tensor([code]))
        odd = [str(rank) for rank, other in enumerate(codes) if int(other) != int(codes[0])]
        if odd:
            raise LoradarError(
                f"{what} differ between the first process and number {', '.join(odd)}; expected the same command, files, out "
                "folder and kind of hardware for all"
            )

    def wait(self) -> None:
        """Waits until every process has called this."""
        if self.size > 1:
            _ask(torch.distributed.all_reduce, torch.zeros(1))

    @contextmanager
    def first_then_others(self) -> Iterator[None]:
        """Runs the block in the first process, and then in the others, which find what that has kept on disk."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()


ALONE = World()
_CONNECTIONS = itertools.count()


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Connects the processes that torchrun started, for the block; without torchrun there is this one alone.

    Tensors on a GPU travel by NCCL, all others by gloo. Raises BadConfigError where torchrun's environment is incomplete, and
    where the caller has connected the processes already.
    """
    place = launched()
    if place.size == 1:
        yield ALONE
        return
    if torch.distributed.is_initialized():
        raise BadConfigError(
            "torch.distributed is initialized already; call torch.distributed.destroy_process_group() before"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, size = next(torch.distributed.rendezvous("env://", timeout=_PATIENCE))  # type: ignore[attr-defined]
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            # the addresses of an earlier connection are still in the store
            store=torch.distributed.PrefixStore(f"loradar {next(_CONNECTIONS)}", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise BadConfigError(f"the processes cannot be connected ({_line(error)}); start them with torchrun") from error
    try:
        yield World(rank=place.rank, size=place.size)
    finally:  # the others, if they wait for this one, are told by it
        torch.distributed.destroy_process_group()


def _ask(collective: Callable[..., object], *arguments: object) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise LoradarError(
            f"another process of this run has ended ({_line(error)}); run the same command again to resume"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
