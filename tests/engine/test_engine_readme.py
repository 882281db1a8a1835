"""Run every command of engine/README.md as it is written there, but with a smaller network on fewer images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^```sh\n(.*?)\n```$", (ROOT / "engine" / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
# Options to add to commands that start like this, so that they take the same path through the program in seconds.
SMALLER = {
    "python -m engine.scenes": "--width 96 --height 64",
    "python -m engine.train --images": "--network seresnet20 --input-size 64 --epochs 1",
    "python -m engine.train --demo": "--scenes 8 --input-size 64 --epochs 1",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, keras224: Path) -> Path:
    """Make a checkout of symbolic links, with encoder weights under the name on the page."""
    import h5py

    folder = tmp_path_factory.mktemp("checkout")
    for name in ("engine", "seseg_trt", "build_engine.py"):
        (folder / name).symlink_to(ROOT / name)
    with h5py.File(keras224 / "weights.h5") as whole, h5py.File(folder / "seresnet152_imagenet_1000_no_top.h5", "w") as encoder:
        names = [n for n in whole.attrs["layer_names"] if not n.startswith((b"decoder_", b"final_conv", b"sigmoid"))]
        encoder.attrs["layer_names"] = names
        for name in names:
            whole.copy(whole[name], encoder, name.decode())
    return folder


def run(command: str, folder: Path) -> str:
    smaller = next((more for start, more in SMALLER.items() if command.startswith(start)), "")
    scripts = str(Path(sys.executable).parent)
    env = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "SESEG_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(f"{command} {smaller}", shell=True, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_has_the_whole_way() -> None:
    starts = [
        "engine.scenes",
        "engine.train --images",
        "engine.train --images",
        "build_engine.py",
        "evaluate",
        "segment",
        "engine.train --demo",
    ]
    assert len(COMMANDS) == len(starts)
    assert all(start in command for start, command in zip(starts, COMMANDS, strict=True))


def test_from_pictures_to_masks(checkout: Path) -> None:
    """Run the commands in order, each on the files that the commands before it left."""
    scenes, train, again, build, evaluate, segment, _ = COMMANDS
    run(scenes, checkout)
    assert len(list((checkout / "scenes" / "images").iterdir())) == 40
    for name, place in (("photos", "images"), ("masks", "masks")):
        (checkout / name).mkdir()
        for path in sorted((checkout / "scenes" / place).iterdir())[:14]:
            path.rename(checkout / name / path.name)
    assert "held-out IoU" in run(train, checkout)
    assert {p.name for p in (checkout / "run").iterdir()} == {"checkpoint.hdf5", "curves.csv", "curves.png", "run.json", "state.npz"}
    run(again, checkout)
    assert (checkout / "run2" / "checkpoint.hdf5").exists()
    run(build, checkout)
    run(evaluate, checkout)
    assert (checkout / "worst.html").exists()
    run(segment, checkout)
    assert len(list((checkout / "masked").glob("*_pred.png"))) == 14
    assert len(list((checkout / "masked").glob("*_nse.png"))) == 14


def test_the_demonstration_network_is_made(checkout: Path) -> None:
    assert "make its graph" in run(COMMANDS[-1], checkout)
    assert (checkout / "demo-run" / "checkpoint.hdf5").exists()
