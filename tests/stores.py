"""Object stores for tests: servers on loopback that speak S3, Google Cloud Storage and Azure Blob Storage, found as users' are, by the environment."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the emulator: public, and the same everywhere."""


class Bucket:
    """A store's objects, by paths whose first part is their bucket.

    Attributes:
        scheme: ``s3``, ``gs`` or ``az``.
        store: fsspec's file system.
    """

    def __init__(self, scheme: str) -> None:
        import fsspec

        self.scheme = scheme
        # an instance of an earlier test would ask a server that is no more
        self.store = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)

    def address(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.scheme}://{path}"

    def put(self, path: str, data: bytes) -> None:
        """Write an object."""
        self.store.pipe_file(path, data)

    def put_tree(self, folder: Path, path: str) -> None:
        """Write all files of a folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def get(self, path: str) -> bytes:
        """Return an object's bytes."""
        return bytes(self.store.cat_file(path))

    def remove(self, path: str) -> None:
        """Remove an object."""
        self.store.rm_file(path)

    def contents(self, path: str) -> dict[str, bytes]:
        """Return the bytes of all objects under a path, by their names relative to it."""
        return {key[len(path) + 1 :]: self.get(key) for key in self.store.find(path)}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run moto's server; yield what its users have in their environment."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    asked = http.client.HTTPConnection(host, port)
    asked.request("POST", "/moto-api/reset")  # its buckets are this process's, and outlive a server
    asked.getresponse().read()
    asked.close()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        running.stop()


@contextmanager
def gs_server() -> Iterator[dict[str, str]]:
    """Run gcp-storage-emulator; yield what its users have in their environment."""
    from gcp_storage_emulator.server import create_server

    port = _free_port()
    running = create_server("127.0.0.1", port, in_memory=True)
    running.start()
    try:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    finally:
        running.stop()


@contextmanager
def az_server() -> Iterator[dict[str, str]]:
    """Run Azurite, a program for Node; yield what its users have in their environment. The test is skipped where it can't be had."""
    program = shutil.which("azurite-blob", path=os.pathsep.join((str(ROOT / ".azurite/node_modules/.bin"), os.environ.get("PATH", ""))))
    if program is None:
        if shutil.which("npm") is None or os.environ.get("SESEG_REQUIRE_EXTRAS") != "1":
            pytest.skip("needs Azurite (make azurite, which needs npm)")
        pytest.fail("npm is here, so Azurite should be: make azurite")
    port = _free_port()
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            _wait_for(port, running)
            yield {
                "AZURE_STORAGE_CONNECTION_STRING": (
                    f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
                    f"BlobEndpoint=http://127.0.0.1:{port}/{AZURE_ACCOUNT};"
                )
            }
        finally:
            running.terminate()


SERVERS: dict[str, Callable[[], Any]] = {"s3": s3_server, "gs": gs_server, "az": az_server}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server on port {port} did not start")
