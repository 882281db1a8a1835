"""Decide how a GPU backend runs a batch: how to split it, with which profile, and when to capture a CUDA graph. Needs no GPU."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from ..errors import DeviceError, ModelError
from ..models.plan_identity import Profile, format_profile

if TYPE_CHECKING:
    from ..cuda.device import Graph

_log = logging.getLogger(__name__)


def choose_profile(profiles: tuple[Profile, ...], batch: int) -> int | None:
    """Return the index of the fastest optimization profile for a batch, or None if none accepts it.

    TensorRT tunes a profile for its best size, so prefer the profile whose best size is nearest, then the narrowest one.
    """
    fitting = [i for i, (low, _, high) in enumerate(profiles) if low <= batch <= high]
    if not fitting:
        return None
    return min(fitting, key=lambda i: (abs(profiles[i][1] - batch), profiles[i][2] - profiles[i][0]))


@functools.lru_cache(maxsize=64)
def split_batch(count: int, profiles: tuple[Profile, ...], limit: int) -> tuple[int, ...]:
    """Split ``count`` images into batches that the profiles accept, as few as possible and the largest first. Nothing is padded.

    Args:
        count: the number of images.
        profiles: the plan's profiles, (least, best, most) images each.
        limit: the largest batch to use.

    Returns:
        The batch sizes; they add up to ``count``.

    Raises:
        ModelError: the images can't be split that way.
    """
    sizes = [n for n in range(1, limit + 1) if choose_profile(profiles, n) is not None]
    if sizes:
        most = sizes[-1]
        whole, rest = divmod(count, most)
        if not rest or rest in sizes:
            return (most,) * whole + ((rest,) if rest else ())
        # No profile accepts the last batch: split it together with full batches in another way. More of these than images in one can't help.
        borrowed = min(whole, most)
        splits = _shortest_splits(rest + borrowed * most, tuple(sizes))
        for taken_back in range(borrowed + 1):
            split = splits[rest + taken_back * most]
            if split is not None:
                return (most,) * (whole - taken_back) + split
    taken = ", ".join(format_profile(p) for p in profiles)
    raise ModelError(
        f"the plan takes batches of {taken}, and {count} images can't be split into such batches of at most {limit}",
        "build it again with --batch 1:OPT:MAX",
    )


def _shortest_splits(count: int, sizes: tuple[int, ...]) -> list[tuple[int, ...] | None]:
    """Return the shortest split of each number of images up to ``count``, or None; by dynamic programming."""
    best: list[tuple[int, ...] | None] = [()]
    for total in range(1, count + 1):
        splits = [(size, *rest) for size in sizes if size <= total and (rest := best[total - size]) is not None]
        best.append(min(splits, key=len, default=None))
    return best


class BatchLimit:
    """The largest batch to try. It is halved when the GPU runs out of memory."""

    def __init__(self, most: int) -> None:
        self.value = most
        self._said = False

    def halve(self, tried: int, cause: DeviceError) -> None:
        """Set the limit to half of the batch that failed, and warn the first time.

        Args:
            tried: the size of the batch that failed.
            cause: the error; it is raised if the batch was a single image.
        """
        if tried <= 1:
            raise cause
        self.value = min(self.value, tried) // 2
        level = logging.DEBUG if self._said else logging.WARNING
        _log.log(level, "%s; going on with batches of %d", cause.message, self.value)
        self._said = True


class GraphCache:
    """An LRU cache of CUDA graphs. Work is captured at its second run with the same shapes and addresses.

    The first run is the warm-up that TensorRT requires before a capture. Callers that never reuse an address pay for no capture.
    """

    def __init__(self, capacity: int = 16) -> None:
        self._capacity = capacity
        self._graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()

    def get(self, key: Hashable, record: Callable[[], Graph]) -> Graph | None:
        """Return the graph for ``key``, calling ``record`` at the key's second run; return None at its first: run without a graph."""
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > self._capacity:
                self._close(self._graphs.popitem(last=False)[1])
            return None
        self._graphs.move_to_end(key)
        graph = self._graphs[key] = self._graphs[key] or record()
        return graph

    def clear(self) -> None:
        """Close and remove all graphs. Needed when an address changes that they use."""
        for graph in self._graphs.values():
            self._close(graph)
        self._graphs.clear()

    @staticmethod
    def _close(graph: Graph | None) -> None:
        if graph is not None:
            graph.close()
