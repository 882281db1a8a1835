"""Provide the models to measure: the full-size network with random weights, and the demonstration network.

Speed does not depend on the weights' values, so they are random, from a fixed seed. All contestants run the same checkpoint. It is made
with the original program's libraries if they are available, since these can only load a checkpoint of their own; else by ``engine/``.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .cases import Case
from .environment import Absent, interpreter
from .images import SETS, prepare
from .peers import FOLDER, PEERS, Input
from .process import ROOT, WORKERS

SEED = 7
FULL_SIZE = "seresnet152"
RECIPES = ROOT / "engine" / "recipes"
RECIPE = {
    "model.onnx": RECIPES / "fp32.toml",
    "plain.onnx": Path(__file__).with_name("plain.toml"),
    "model.fp16.onnx": RECIPES / "fp16.toml",
    "model.int8.onnx": RECIPES / "int8-benchmark.toml",
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        path: what the contestant loads: a path, ``demo``, ``fake``, or empty (nothing).
        facts: for the record: hash, network, origin of the weights, work for an image; for INT8 the certificate too.
    """

    path: str
    facts: dict[str, Any]


def find(case: Case, takes: Input, cache: Path) -> Model:
    """Return the model of a case; it is made if it is missing.

    Args:
        case: the case.
        takes: what the contestant loads.
        cache: the folder of models.

    Raises:
        Absent: the model can't be made on this machine.
    """
    if case.network in ("", "fake") or takes == "none":
        return Model(case.network, {})
    if case.network == "demo":
        from seseg_trt.models.cache import demo_path

        return Model("demo", _facts(demo_path()))
    folder = cache / "models" / case.network
    checkpoint = folder / "checkpoint.hdf5"
    if takes == "checkpoint":
        if not checkpoint.is_file():
            make_checkpoint(checkpoint, cache)
        return Model(str(checkpoint), {"checkpoint": "random weights"})
    plain = "plain.onnx" if takes == "plain graph" else "model.onnx"
    graph = folder / (plain if case.precision == "fp32" else f"model.{case.precision}.onnx")
    if not graph.is_file():
        make_graph(graph, cache)
    facts = _facts(graph)
    if case.precision == "int8":
        facts["certificate"] = _certificate(graph)
    return Model(str(graph), facts)


def make_checkpoint(target: Path, cache: Path) -> None:
    """Make the checkpoint of random weights with the original program's libraries.

    Raises:
        Absent: the libraries are not available, or they failed.
    """
    python = interpreter(PEERS["original"], cache)
    images = prepare(SETS["1280x960"], cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.hdf5")
    command = [python, str(FOLDER / "original" / "checkpoint.py"), str(SEED), str(images.folder), str(part)]
    _run(command, cache / "logs" / "checkpoint.txt", {"PYTHONPATH": str(WORKERS)})
    part.replace(target)


def make_graph(target: Path, cache: Path) -> None:
    """Make a graph with ``build_engine.py``, from the checkpoint or, if that can't be made, from random weights.

    The INT8 recipe has no gate, since random weights would miss any; the certificate records the agreement.

    Raises:
        Absent: ``build_engine.py`` failed.
    """
    checkpoint = target.parent / "checkpoint.hdf5"
    work = target.parent / f"making-{target.stem}"
    command = [sys.executable, str(ROOT / "build_engine.py"), "--out", str(work), "--recipe", str(RECIPE[target.name])]
    try:
        if not checkpoint.is_file():
            make_checkpoint(checkpoint, cache)
        command += ["--checkpoint", str(checkpoint)]
    except Absent:
        command += ["--random-weights", str(SEED), "--network", FULL_SIZE]
    fp32 = target.name in ("model.onnx", "plain.onnx")
    if not fp32:
        command += ["--images", str(prepare(SETS["calibration"], cache).folder)]
    failure: Absent | None = None
    try:
        _run(command, cache / "logs" / f"graph-{target.stem}.txt", {"PYTHONPATH": str(ROOT)})
    except Absent as error:  # a graph under its gate makes the command fail, but is written, with a certificate that says so
        failure = error
    stem = "model" if fp32 else target.stem
    if not (work / f"{stem}.onnx").is_file():
        raise failure or Absent(f"build_engine.py made no {stem}.onnx")
    for made in work.glob(f"{stem}.*"):
        made.replace(target.parent / made.name.replace(stem, target.stem, 1))
    shutil.rmtree(work)


def _certificate(graph: Path) -> dict[str, Any]:
    """Return the main figures of a quantised graph's certificate.

    Raises:
        Absent: there is no certificate for this file; its speed is then not reported.
    """
    from seseg_trt.models.artifact import load_artifact
    from seseg_trt.models.certificate import check_certificate

    found = check_certificate(load_artifact(graph))
    if found.status != "valid" or found.certificate is None:
        raise Absent(f"{graph.name} has no valid certificate beside it ({found.status}), and is not reported without one")
    data = found.certificate.data
    return {"line": found.certificate.line(), **{key: data[key] for key in ("passed", "iou", "flip_rate", "images", "threshold")}}


def _facts(graph: Path) -> dict[str, Any]:
    from seseg_trt.models.artifact import load_artifact

    from .macs import count

    artifact = load_artifact(graph)
    counted = count(graph)
    return {
        "sha256": artifact.sha256,
        "network": artifact.network,
        "weights": artifact.metadata.get("checkpoint_sha256", "unknown"),
        "macs": counted.macs,
        "parameters": counted.parameters,
        "bytes_moved": counted.bytes_moved,
    }


def _run(command: list[str], log: Path, environment: dict[str, str]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        done = subprocess.run(command, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, **environment}, check=False)
    if done.returncode:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise Absent(f"{Path(command[1]).name} failed: {lines[-1].strip() if lines else 'no message'}")
