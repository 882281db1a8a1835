"""Test resolving model names and paths."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seseg_trt import ModelError, UsageError
from seseg_trt.models import cache
from tests.conftest import DATA


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    folder.mkdir()
    shutil.copy(DATA / "fixture.onnx", folder / "model.onnx")
    return folder


def test_an_empty_cache_says_the_two_commands() -> None:
    with pytest.raises(ModelError, match="no default") as caught:
        cache.find_model(None)
    assert "seseg-trt fetch" in caught.value.hint and "make engine CHECKPOINT=" in caught.value.hint
    assert caught.value.exit_code == 3


def test_demo_is_always_there() -> None:
    assert cache.find_model("demo").name == "demo"


def test_a_stored_model_is_found_by_name_and_as_the_default(built: Path, home: Path) -> None:
    cache.store("mine", built)
    assert cache.find_model("mine").path == home / "models" / "mine" / "model.onnx"
    assert cache.find_model(None).name == "mine"
    assert cache.names() == ["mine"]


def test_storing_again_replaces_the_entry_whole(built: Path, home: Path) -> None:
    (built / "model.fp16.onnx").write_bytes(b"old")
    cache.store("mine", built)
    (built / "model.fp16.onnx").unlink()
    cache.store("mine", built, make_default=False)
    assert sorted(p.name for p in (home / "models" / "mine").iterdir()) == ["model.onnx"]
    assert [p.name for p in (home / "models").iterdir()] == ["mine"]


def test_a_folder_without_a_graph_is_not_stored(tmp_path: Path, home: Path) -> None:
    with pytest.raises(ModelError):
        cache.store("mine", tmp_path)
    assert cache.names() == []


@pytest.mark.parametrize("name", ["demo", "../evil", "", ".hidden", "a/b"])
def test_a_name_that_can_t_be_an_entry_is_refused(name: str, built: Path) -> None:
    with pytest.raises(UsageError):
        cache.store(name, built)


def test_an_unknown_name_lists_what_there_is(built: Path) -> None:
    cache.store("mine", built)
    with pytest.raises(ModelError, match="demo, mine"):
        cache.find_model("yours")


def test_a_path_wins_over_a_name(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store("mine", built)
    monkeypatch.chdir(tmp_path)
    shutil.copy(built / "model.onnx", "mine")
    assert cache.find_model("mine").path == Path("mine")


def test_a_precision_that_an_entry_has_not_is_named(built: Path) -> None:
    cache.store("mine", built)
    with pytest.raises(ModelError, match=r"no fp16 graph"):
        cache.find_model("mine", precision="fp16")
