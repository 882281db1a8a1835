"""A bucket on each of the servers that speak what object stores speak."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seseg_trt.inputs.tar_entries import forget_stores
from seseg_trt.storage import objects as remote
from tests.stores import SERVERS, Bucket


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, str]]]:
    with SERVERS[request.param]() as environment:
        yield request.param, environment


@pytest.fixture
def bucket(server: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return an empty bucket called ``photos``, and let the program find the server as its users would."""
    import fsspec

    scheme, environment = server
    for name, value in {**environment, "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    remote._store.cache_clear()
    forget_stores()
    fsspec.get_filesystem_class(scheme).clear_instance_cache()
    found = Bucket(scheme)
    if found.store.exists("photos"):
        found.store.rm("photos", recursive=True)
    if not found.store.exists("photos"):
        found.store.mkdir("photos")
    return found
