"""The decisions of a GPU backend that need no GPU: how a batch is cut, which profile takes it, when a graph is made."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from ..errors import DeviceError, ModelError
from ..plan_identity import Profile, format_profile

_log = logging.getLogger(__name__)


def choose_profile(profiles: tuple[Profile, ...], batch: int) -> int | None:
    """Return the index of the profile that is fastest for a batch, or None if none takes it.

    A plan is fastest at a profile's best size, and a narrow profile knows more than a wide one.
    """
    fitting = [i for i, (low, _, high) in enumerate(profiles) if low <= batch <= high]
    if not fitting:
        return None
    return min(fitting, key=lambda i: (abs(profiles[i][1] - batch), profiles[i][2] - profiles[i][0]))


@functools.lru_cache(maxsize=64)
def split_batch(count: int, profiles: tuple[Profile, ...], limit: int) -> tuple[int, ...]:
    """Cut ``count`` images into the fewest batches that the profiles take, each of at most ``limit``; large ones first.

    The last one is as small as it comes: nothing is padded.

    Raises:
        ModelError: no such cut exists.
    """
    sizes = [n for n in range(1, limit + 1) if choose_profile(profiles, n) is not None]
    if sizes:
        most = sizes[-1]
        whole, rest = divmod(count, most)
        if not rest or rest in sizes:
            return (most,) * whole + ((rest,) if rest else ())
        # The last batch is too small for every profile: take it and one before it apart in another way.
        for borrowed in range(1, min(whole, 2) + 1):
            cut = _cut(rest + borrowed * most, tuple(sizes))
            if cut is not None:
                return (most,) * (whole - borrowed) + cut
    taken = ", ".join(format_profile(p) for p in profiles)
    raise ModelError(
        f"the plan takes batches of {taken}, and {count} images can't be cut into such of at most {limit}",
        "build it again with --batch 1:OPT:MAX",
    )


def _cut(count: int, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    best: list[tuple[int, ...] | None] = [()] + [None] * count
    for total in range(1, count + 1):
        for size in sizes:
            if size > total:
                break
            before = best[total - size]
            if before is not None and (best[total] is None or len(before) + 1 < len(best[total] or ())):
                best[total] = (size, *before)
    return best[count]


class BatchLimit:
    """The largest batch that is tried: halved when the GPU's memory does not hold it."""

    def __init__(self, most: int) -> None:
        self.value = most
        self._said = False

    def halve(self, tried: int, cause: DeviceError) -> None:
        """Go on with half of the batch that was tried; where that was one image, raise ``cause``. Said once."""
        if tried <= 1:
            raise cause
        self.value = min(self.value, tried) // 2
        level = logging.DEBUG if self._said else logging.WARNING
        _log.log(level, "%s; going on with batches of %d", cause.message, self.value)
        self._said = True


class Replayable(Protocol):
    """What a recording gives: :class:`seseg_trt.cuda.Graph`, for one."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


R = TypeVar("R", bound=Replayable)


class GraphCache(Generic[R]):
    """When work is recorded as a graph: at its second run with the same shapes and addresses.

    The first run is the warm-up that TensorRT asks for, and a caller whose addresses never return pays for no recording.
    """

    def __init__(self, capacity: int = 16) -> None:
        self._capacity = capacity
        self._graphs: OrderedDict[Hashable, R | None] = OrderedDict()

    def get(self, key: Hashable, record: Callable[[], R]) -> R | None:
        """Return the graph for ``key``, recorded now if this is its second run; None: run it as it is."""
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > self._capacity:
                self._close(self._graphs.popitem(last=False)[1])
            return None
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = record()
        return graph

    def clear(self) -> None:
        """Forget all: an address that they hold has changed."""
        for graph in self._graphs.values():
            self._close(graph)
        self._graphs.clear()

    @staticmethod
    def _close(graph: R | None) -> None:
        if graph is not None:
            graph.close()
