"""Each hint names a command that works for how seseg_trt was installed: no package index has it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from seseg_trt import errors
from seseg_trt.errors import install_hint

PACKAGE = Path(errors.__file__).parent
ROOT = PACKAGE.parent


def test_a_checkout_is_installed_from_its_folder() -> None:
    assert install_hint("scale") in (f"pip install -e '{ROOT}[scale]'", f"pip install -e {ROOT}[scale]")


def test_a_folder_with_spaces_and_quotes_is_one_word_of_a_shell(tmp_path: Path) -> None:
    checkout = tmp_path / "it's a folder"
    (checkout / "seseg_trt").mkdir(parents=True)
    shutil.copy(PACKAGE / "errors.py", checkout / "seseg_trt")
    shutil.copy(ROOT / "pyproject.toml", checkout)
    code = "import errors; print(errors.install_hint('gpu'))"
    hint = subprocess.run([sys.executable, "-c", code], cwd=checkout / "seseg_trt", capture_output=True, text=True, check=True).stdout
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {hint}"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["pip", "install", "-e", f"{checkout}[gpu]"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Say that the package lies in site-packages, and what pip wrote about where it came from (PEP 610)."""

    def install(record: object) -> None:
        folder = tmp_path / "site-packages"
        information = folder / "seseg_trt-0.1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: seseg_trt\nVersion: 0.1.0\n")
        if record is not None:
            (information / "direct_url.json").write_text(record if isinstance(record, str) else json.dumps(record))
        monkeypatch.setattr(errors, "__file__", str(folder / "seseg_trt" / "errors.py"))
        monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(information))

    return install


def test_a_folder_is_installed_again(installed: Callable[[object], None], tmp_path: Path) -> None:
    source = tmp_path / "the source"
    source.mkdir()
    installed({"url": source.as_uri(), "dir_info": {}})
    assert install_hint("rtx") == f"pip install '{source}[rtx]'"


def test_a_wheel_is_installed_again(installed: Callable[[object], None], tmp_path: Path) -> None:
    wheel = tmp_path / "some wheels" / "seseg_trt-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"")
    installed({"url": wheel.as_uri(), "archive_info": {"hash": "sha256=00"}})
    assert install_hint("scale") == f"pip install 'seseg_trt[scale] @ {wheel.as_uri()}'" and "%20" in install_hint("scale")


@pytest.mark.parametrize(
    ("record", "requirement"),
    [
        (
            {"url": "https://example.org/seseg_trt.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}},
            "git+https://example.org/seseg_trt.git@0123abc",
        ),
        ({"url": "https://example.org/seseg_trt-0.1.0.whl", "archive_info": {}}, "https://example.org/seseg_trt-0.1.0.whl"),
    ],
)
def test_an_address_is_installed_again(installed: Callable[[object], None], record: object, requirement: str) -> None:
    installed(record)
    assert install_hint("ort") == f"pip install 'seseg_trt[ort] @ {requirement}'"


@pytest.mark.parametrize("record", [None, "no JSON", {"url": "file:///nowhere/seseg_trt-0.1.0.whl", "archive_info": {}}])
def test_where_no_one_knows_the_hint_says_where_to_run_it(installed: Callable[[object], None], record: object) -> None:
    installed(record)
    assert install_hint("gpu") == "pip install '.[gpu]' in the folder of seseg_trt's source code"


def test_an_installation_by_pip_knows_its_wheel(tmp_path: Path) -> None:
    wheel, site, information = tmp_path / "my wheels" / "seseg_trt-0.1.0-py3-none-any.whl", tmp_path / "site", "seseg_trt-0.1.0.dist-info"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:  # the whole project's wheel takes a compiler, and newer setuptools than may be here
        archive.writestr("seseg_trt/__init__.py", "")
        archive.write(PACKAGE / "errors.py", "seseg_trt/errors.py")
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: seseg_trt\nVersion: 0.1.0\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from seseg_trt.errors import install_hint; print(install_hint('scale'))"
    hint = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert hint == f"pip install 'seseg_trt[scale] @ {wheel.as_uri()}'\n"


def test_no_hint_names_the_package_as_if_an_index_had_it() -> None:
    guilty = [path for path in PACKAGE.rglob("*.py") if "seseg_trt[" in path.read_text(encoding="utf-8")]
    assert guilty == [PACKAGE / "errors.py"]
