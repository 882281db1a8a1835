"""Test complete, resumed and refused downloads from a server on the loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seseg_trt import CheckpointError, DeviceError, UsageError
from seseg_trt.models.artifact import HDF5_MAGIC
from seseg_trt.models.download import fetch, record_path

CONTENT = HDF5_MAGIC + bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """A server for /whole, /cut (breaks off halfway, once), /page (an HTML page) and /plain (does not support ranges)."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.ranges.append(self.headers.get("Range"))
        content = b"<html>gone</html>" if self.path == "/page" else CONTENT
        if self.path == "/missing":
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and self.path != "/plain":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if self.path == "/cut" and start == 0 else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    ranges: list[str | None]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.ranges = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_a_whole_file_comes_with_its_record(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "sub" / "c.hdf5"
    seen: list[tuple[int, int | None]] = []
    assert fetch(target, url(server, "whole"), lambda done, total: seen.append((done, total))) == SHA256
    assert target.read_bytes() == CONTENT
    assert json.loads(record_path(target).read_text())["sha256"] == SHA256
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_transfer_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c.hdf5"
    with pytest.raises(DeviceError, match="cut off"):
        fetch(target, url(server, "cut"))
    assert not target.exists()
    assert fetch(target, url(server, "cut")) == SHA256
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c.hdf5"
    (tmp_path / "c.hdf5.part").write_bytes(b"something else")
    assert fetch(target, url(server, "plain")) == SHA256


def test_a_part_that_is_whole_already_needs_nothing_more(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c.hdf5"
    (tmp_path / "c.hdf5.part").write_bytes(CONTENT)
    assert fetch(target, url(server, "whole")) == SHA256


def test_the_second_time_it_is_checked_and_not_brought(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c.hdf5"
    fetch(target, url(server, "whole"))
    fetch(target, url(server, "whole"))
    assert len(server.ranges) == 1
    target.write_bytes(CONTENT + b"x")
    with pytest.raises(CheckpointError, match="has changed"):
        fetch(target, url(server, "whole"))


def test_other_content_than_recorded_is_refused(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c.hdf5"
    record_path(target).write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="recorded"):
        fetch(target, url(server, "whole"))
    assert not target.exists()


def test_a_page_in_its_place_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not HDF5"):
        fetch(tmp_path / "c.hdf5", url(server, "page"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_missing_host_are_device_errors_with_a_way_out(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="404") as gone:
        fetch(tmp_path / "c.hdf5", url(server, "missing"))
    assert "make engine" in gone.value.hint
    with pytest.raises(DeviceError, match="can't be reached"):
        fetch(tmp_path / "c.hdf5", "http://127.0.0.1:9/c.hdf5")


def test_a_file_of_somebody_else_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c.hdf5"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="was not fetched"):
        fetch(target, url(server, "whole"))
    assert target.read_bytes() == b"mine"


def test_only_http_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an http"):
        fetch(tmp_path / "c.hdf5", "file:///etc/passwd")
