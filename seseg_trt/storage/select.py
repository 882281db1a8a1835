"""Which storage a name belongs to. Nothing else asks for ``://``, but :mod:`seseg_trt.storage.locations`, which parses it."""

from __future__ import annotations

from .base import Storage
from .local import LocalStorage
from .locations import is_remote

_LOCAL = LocalStorage()


def storage_of(name: str) -> Storage:
    """Return where a name lies: on the local disk, or in an object store (``s3://bucket/folder``)."""
    if not is_remote(name):
        return _LOCAL
    from .objects import STORES

    return STORES
