from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt.backends.batching import BatchLimit, GraphCache, choose_profile, split_batch
from seseg_trt.errors import DeviceError, ModelError

PROFILES = ((1, 1, 1), (1, 8, 32), (64, 64, 64))


@pytest.mark.parametrize(("batch", "index"), [(1, 0), (2, 1), (32, 1), (33, None), (64, 2), (65, None)])
def test_the_profile_nearest_to_the_batch_is_chosen(batch: int, index: int | None) -> None:
    assert choose_profile(PROFILES, batch) == index


def test_of_equally_near_profiles_the_narrow_one_is_chosen() -> None:
    assert choose_profile(((1, 8, 128), (8, 8, 8)), 8) == 1


@pytest.mark.parametrize(
    ("count", "limit", "sizes"),
    [
        (1, 64, (1,)),
        (64, 64, (64,)),
        (65, 64, (64, 1)),
        (96, 64, (64, 32)),
        (128, 64, (64, 64)),
        (70, 32, (32, 32, 6)),
        (5, 2, (2, 2, 1)),
    ],
)
def test_batches_are_cut_large_first_and_never_padded(count: int, limit: int, sizes: tuple[int, ...]) -> None:
    assert split_batch(count, PROFILES, limit) == sizes


def test_a_rest_that_no_profile_takes_is_joined_and_cut_anew() -> None:
    assert sorted(split_batch(9, ((2, 4, 4),), 4)) == [2, 3, 4]
    assert sorted(split_batch(100, PROFILES, 64)) == [4, 32, 64]


def test_what_can_not_be_cut_names_the_rebuild() -> None:
    with pytest.raises(ModelError, match="batches of 8, and 9 images") as caught:
        split_batch(9, ((8, 8, 8),), 8)
    assert "--batch 1:OPT:MAX" in caught.value.hint
    with pytest.raises(ModelError):
        split_batch(8, ((8, 8, 8),), 4)


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=3),
    st.integers(1, 40),
)
def test_every_cut_adds_up_and_fits(count: int, ranges: list[tuple[int, int]], limit: int) -> None:
    profiles = tuple((low, low, low + more) for low, more in ranges)
    try:
        sizes = split_batch(count, profiles, limit)
    except ModelError:
        assert all(low > 1 or limit < 1 for low, _, _ in profiles), "single images are taken, so every cut is possible"
        return
    assert sum(sizes) == count
    assert all(size <= limit and choose_profile(profiles, size) is not None for size in sizes)


def test_the_limit_is_halved_down_to_one() -> None:
    limit, cause = BatchLimit(10), DeviceError("out of memory")
    limit.halve(10, cause)
    assert limit.value == 5
    limit.halve(3, cause)
    assert limit.value == 1
    with pytest.raises(DeviceError, match="out of memory"):
        limit.halve(1, cause)


class Recording:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_recording_is_made_at_the_second_run_and_kept() -> None:
    cache = GraphCache()
    made: list[Recording] = []

    def record() -> Recording:
        made.append(Recording())
        return made[-1]

    assert cache.get("a", record) is None
    first = cache.get("a", record)
    assert first is made[0] and cache.get("a", record) is first
    assert len(made) == 1
    assert cache.get("b", record) is None


def test_the_least_used_recording_is_closed_when_there_are_too_many() -> None:
    cache = GraphCache(capacity=2)
    kept, old = (cache.get(k, Recording) or cache.get(k, Recording) for k in ("kept", "old"))
    assert kept is not None and old is not None
    cache.get("kept", Recording)
    cache.get("new", Recording)
    assert (kept.closed, old.closed) == (0, 1)
    cache.clear()
    assert kept.closed == 1
    assert cache.get("kept", Recording) is None


def test_a_recording_that_fails_is_tried_again() -> None:
    cache = GraphCache()

    def fail() -> Recording:
        raise DeviceError("can't capture")

    cache.get("a", fail)
    with pytest.raises(DeviceError):
        cache.get("a", fail)
    assert isinstance(cache.get("a", Recording), Recording)


@pytest.mark.parametrize(
    ("count", "profiles", "limit"),
    [
        (2, ((1, 1, 1), (3, 3, 3)), 3),
        (8, ((3, 3, 3), (7, 7, 7), (5, 5, 5)), 7),
        (9, ((4, 4, 4), (3, 3, 3)), 4),
        (6, ((2, 2, 2), (5, 5, 5)), 5),
    ],
)
def test_a_split_that_exists_is_found(count: int, profiles: tuple[tuple[int, int, int], ...], limit: int) -> None:
    split = split_batch(count, profiles, limit)
    assert sum(split) == count and all(choose_profile(profiles, size) is not None and size <= limit for size in split)
