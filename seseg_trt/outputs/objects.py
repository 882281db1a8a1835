"""Outputs in a folder of an object store."""

from __future__ import annotations

import contextlib
import hashlib

from ..errors import UsageError
from ..storage.atomic import stopping
from ..storage.locations import fs_to_text
from ..storage.objects import STORES
from .base import RUN_AGAIN, OutputInfo, Outputs, refused_name

LONGEST_KEY = 1024
"""Bytes of an object's name, in S3, Google Cloud Storage and Azure."""


class RemoteOutputs(Outputs):
    """A folder of an object store. An object is seen whole or not at all, as these stores work.

    Large objects (tars) go up in parts. S3 keeps the unseen parts of an upload that was killed until a rule of the bucket
    (AbortIncompleteMultipartUpload) removes them.

    Args:
        root: its address.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._sizes: dict[str, int] | None = None

    def prepare(self) -> None:
        """Forget what was listed."""
        self._sizes = None

    def size(self, name: str) -> int | None:
        """See :class:`Outputs`. The folder is listed once, when it is first asked."""
        if self._sizes is None:
            try:
                self._sizes = {found: stat.size for found, stat in STORES.find(self.root)}
            except UsageError:  # there is nothing yet
                self._sizes = {}
        return self._sizes.get(name)

    def read(self, name: str) -> bytes:
        return STORES.read(f"{self.root}/{name}", lambda size: None)[0]

    def write(self, name: str, data: bytes) -> OutputInfo:
        key = f"{self.root}/{name}".partition("://")[2].partition("/")[2]
        try:
            long = len(fs_to_text(key).encode()) > LONGEST_KEY
        except UnicodeEncodeError as error:
            raise refused_name(name, "it is not UTF-8, as names in a store are") from error
        if long or any(ord(character) < 32 for character in key):
            raise refused_name(name, f"a store takes up to {LONGEST_KEY} bytes and no control characters")
        with stopping(f"{self.root}/{name} can't be written", RUN_AGAIN):
            STORES.put(f"{self.root}/{name}", data)
        return hashlib.sha256(data).hexdigest(), len(data)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # most often it is not there; what stays is replaced when its input is done
            STORES.remove(f"{self.root}/{name}")
