"""`seseg-trt build`, and what a plan means to the other verbs on a machine without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seseg_trt import DeviceError, FakeBackend, ModelError, Segmenter
from seseg_trt.cli import main as cli
from seseg_trt.cuda.driver import driver_report
from seseg_trt.models.artifact import load_artifact
from seseg_trt.models.plan_identity import build_command
from tests.conftest import DATA

pytestmark = pytest.mark.rtx

GRAPH = DATA / "fixture.onnx"


def _has_gpu() -> bool:
    try:
        return bool(driver_report().gpus)
    except DeviceError:
        return False


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plans") / "fixture.plan"
    arguments = [
        "build",
        "--model",
        str(GRAPH),
        "--runtime",
        "rtx",
        "--target",
        "sm86",
        "--batch",
        "1",
        "--batch",
        "1:4:8",
        "--out",
        str(out),
    ]
    assert cli.run(cli.group, arguments) == 0
    return out


def test_a_plan_is_an_artifact_with_its_graph_s_identity(plan: Path) -> None:
    artifact, graph = load_artifact(plan), load_artifact(GRAPH)
    assert (artifact.kind, artifact.input_size, artifact.network) == ("plan", graph.input_size, graph.network)
    assert artifact.precision == "fp32" and artifact.sha256 != graph.sha256


def test_a_plan_is_refused_on_the_cpu(plan: Path) -> None:
    with pytest.raises(ModelError, match="on a GPU only"):
        Segmenter(plan, device="cpu")


@pytest.mark.skipif(_has_gpu(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_without_a_gpu_cuda_is_refused_and_never_the_cpu_instead(plan: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="can't run on cuda:0"):
        Segmenter(plan, device=device)


def test_a_plan_for_another_runtime_is_named(plan: Path) -> None:
    with pytest.raises(ModelError, match="for the runtime rtx, not tensorrt"):
        Segmenter(plan, device="cuda", backend="tensorrt")


def test_a_plan_of_a_plan_is_refused(plan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.group, ["build", "--model", str(plan), "--runtime", "rtx", "--out", str(tmp_path / "p")]) == 1
    assert "is a plan already" in capfd.readouterr().err


def test_the_command_that_a_refusal_names_is_taken_by_the_command_line(plan: Path, tmp_path: Path) -> None:
    from seseg_trt.models.plan_file import read_identity

    out = tmp_path / "again.plan"
    command = build_command(GRAPH, read_identity(plan).options, out).split()
    assert command.pop(0) == "seseg-trt"
    assert cli.run(cli.group, command) == 0
    assert read_identity(out).options == read_identity(plan).options


def test_a_gpu_takes_the_fp16_graph_of_a_cache_entry_and_a_cpu_the_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seseg_trt.backends import select
    from seseg_trt.models import cache

    monkeypatch.setenv(cache.HOME_VARIABLE, str(tmp_path / "home"))
    built = tmp_path / "built"
    built.mkdir()
    for name in ("model.onnx", "model.fp16.onnx"):
        shutil.copy(GRAPH, built / name)
    cache.store("mine", built)
    taken = []
    monkeypatch.setattr(select, "create_backend", lambda artifact, **_: taken.append(artifact.path.name) or FakeBackend(256))
    for device in ("cpu", "cuda:0"):
        Segmenter("mine", device=device)
    assert taken == ["model.onnx", "model.fp16.onnx"]
