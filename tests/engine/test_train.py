"""Test what the training command refuses before it does any work, and how it reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import train
from seseg_trt.errors import UsageError


def refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        train.main([*arguments], standalone_mode=False)
    return str(caught.value)


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    assert "--images DIR and --masks DIR, or --demo" in refused("--out", str(tmp_path))
    assert "leave --images and --masks out" in refused("--demo", "--images", "x", "--out", str(tmp_path))


def test_bad_pairs_end_it_before_tensorflow_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from engine import quiet

    monkeypatch.setattr(quiet, "quiet_tensorflow", lambda **_: pytest.fail("TensorFlow was loaded"))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    message = refused("--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"), "--out", str(tmp_path / "run"))
    assert "a.png: no mask" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.engine
def test_mixed_precision_is_a_promise() -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match="needs a GPU"):
        train._precision("on")
    assert train._precision("auto") is False
    assert train._precision("off") is False


def test_errors_are_one_message_and_a_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        train.run()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: there is nothing to train on")


def test_the_demonstration_never_sees_what_it_is_judged_on() -> None:
    _, _, data = train._sources(None, None, True, 10, 0.2)
    assert data["scenes"]["seed"] != data["held_out"]["seed"]
    assert data["held_out"]["count"] == 2
