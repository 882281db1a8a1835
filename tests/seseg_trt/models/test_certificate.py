"""Test that a certificate is bound to its artifact and is void if either changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import GateError, ModelError, UsageError
from seseg_trt.models.artifact import load_artifact
from seseg_trt.models.certificate import (
    Certificate,
    Gate,
    certificate_line,
    certificate_path,
    check_certificate,
    is_quantised,
    load_certificate,
    require_certificate,
    show_iou,
)

from ..quality.tiny import alter_one_weight, write_graph


def _content(path: Path, *, passed: bool = True, pooled: float = 0.99967) -> dict[str, Any]:
    return {
        "passed": passed,
        "gate": {"min_iou": 0.999, "min_worst_iou": 0.99, "failures": [] if passed else ["the pooled IoU is too low"]},
        "iou": {"pooled": pooled, "worst": 0.995},
        "reference": {"name": "model.onnx", "sha256": "0" * 64},
        "candidate": {"name": path.name, "sha256": load_artifact(path).sha256},
    }


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    path = write_graph(tmp_path / "model.int8.onnx", quantised=True)
    Certificate.seal(_content(path)).write(certificate_path(path))
    return path


def test_it_lies_beside_its_artifact(certified: Path) -> None:
    assert certificate_path(certified).name == "model.int8.certificate.json"
    assert certificate_path(certified).parent == certified.parent


def test_a_valid_one_is_shown_and_accepted(certified: Path) -> None:
    artifact = load_artifact(certified)
    assert check_certificate(certified).status == "valid"
    assert certificate_line(artifact) == "certified: IoU 0.9996 against model.onnx"
    certificate = require_certificate(artifact)
    assert certificate is not None and certificate.passed


def test_one_altered_weight_voids_it(certified: Path) -> None:
    alter_one_weight(certified)
    artifact = load_artifact(certified)
    assert check_certificate(artifact).status == "artifact_changed"
    assert certificate_line(artifact).startswith("not certified: the certificate is void, because it was made for another model file")
    with pytest.raises(GateError, match="made for another model file") as caught:
        require_certificate(artifact)
    assert "seseg-trt verify --reference" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("iou", "pooled"), 0.99968),
        (("gate", "min_iou"), 0.5),
        (("reference", "name"), "other.onnx"),
        (("note",), "added"),
        (("digest",), "0" * 64),
    ],
)
def test_an_edit_voids_it(certified: Path, keys: tuple[str, ...], value: object) -> None:
    path = certificate_path(certified)
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))
    assert check_certificate(certified).status == "certificate_edited"
    with pytest.raises(GateError, match="edited or damaged"):
        require_certificate(load_artifact(certified))


def test_another_layout_of_the_same_json_does_not_void_it(certified: Path) -> None:
    path = certificate_path(certified)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert check_certificate(certified).status == "valid"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "seseg_trt certificate 1"}', "\x00", "[" * 100_000])
def test_a_damaged_file_is_void_and_raises_nothing_unexpected(certified: Path, text: str) -> None:
    certificate_path(certified).write_text(text)
    check = check_certificate(certified)
    assert (check.status, check.certified) == ("certificate_edited", False)
    with pytest.raises(ModelError, match=r"is not a certificate|seseg-trt verify"):
        load_certificate(certified)


def test_none_is_not_certified(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx")
    assert load_certificate(path) is None
    assert check_certificate(path).status == "missing"
    assert certificate_line(load_artifact(path)) == "not certified"


def test_under_its_gate_is_not_certified(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", quantised=True)
    certificate = Certificate.seal(_content(path, passed=False, pooled=0.91))
    certificate.write(certificate_path(path))
    assert check_certificate(path).status == "valid"
    assert certificate_line(load_artifact(path)) == "not certified: IoU 0.9100 against model.onnx is under its gate"
    with pytest.raises(GateError):
        require_certificate(load_artifact(path))
    with pytest.raises(GateError, match="too low") as caught:
        certificate.require()
    assert caught.value.exit_code == 4


def test_a_full_precision_artifact_needs_none(tmp_path: Path) -> None:
    artifact = load_artifact(write_graph(tmp_path / "m.onnx"))
    assert not is_quantised(artifact)
    assert require_certificate(artifact) is None


def test_what_a_graph_says_of_itself_is_not_enough(tmp_path: Path) -> None:
    artifact = load_artifact(write_graph(tmp_path / "m.onnx", quantised=True))
    assert artifact.precision == "fp32"
    assert is_quantised(artifact)
    with pytest.raises(GateError, match="is quantised, and not certified"):
        require_certificate(artifact)


def test_a_users_own_gate_counts_as_well(certified: Path) -> None:
    artifact = load_artifact(certified)
    assert require_certificate(artifact, min_iou=0.9995) is not None
    with pytest.raises(GateError, match=r"under 0\.9999"):
        require_certificate(artifact, min_iou=0.9999)


def test_an_iou_is_cut_and_never_rounded_up() -> None:
    assert [show_iou(v) for v in (0.99996, 1.0, 0.9996, 0.0)] == ["0.9999", "1.0000", "0.9996", "0.0000"]


def test_a_gate_is_within_0_and_1() -> None:
    with pytest.raises(UsageError, match=r"1\.5"):
        Gate(min_iou=1.5)
    with pytest.raises(UsageError, match=r"-0\.1"):
        Gate(min_worst_iou=-0.1)


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written"):
        Certificate.seal({}).write(tmp_path / "file" / "c.json")


def test_a_model_cannot_certify_itself(certified: Path) -> None:
    artifact = load_artifact(certified)
    content = _content(certified) | {"reference": {"name": "model.onnx", "sha256": artifact.sha256}}
    Certificate.seal(content).write(certificate_path(certified))
    assert check_certificate(artifact).status == "measured_against_itself"
    with pytest.raises(GateError, match="compared with itself"):
        require_certificate(artifact)


@pytest.mark.parametrize(
    ("figure", "value", "words"), [("pooled", 0.99, "pooled IoU is 0.99, under 0.999"), ("worst", 0.5, "worst IoU is 0.5, under 0.99")]
)
def test_a_certificate_passes_by_its_figures_and_not_by_its_word(certified: Path, figure: str, value: float, words: str) -> None:
    content = _content(certified)
    Certificate.seal(content | {"iou": content["iou"] | {figure: value}}).write(certificate_path(certified))
    with pytest.raises(GateError, match=words):
        require_certificate(load_artifact(certified))


def test_what_failed_is_said(certified: Path) -> None:
    Certificate.seal(_content(certified, passed=False, pooled=0.91)).write(certificate_path(certified))
    with pytest.raises(GateError, match="the pooled IoU is too low"):
        require_certificate(load_artifact(certified))


@pytest.mark.parametrize(
    "operator", ["QLinearConv", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "DynamicQuantizeLinear"]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_every_quantised_operator_counts_wherever_it_is(tmp_path: Path, operator: str, hidden: bool) -> None:
    import onnx
    from onnx import helper

    path = write_graph(tmp_path / "m.onnx")
    assert not is_quantised(load_artifact(path))
    model = onnx.load(str(path))
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")
    if hidden:
        inner = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)
    onnx.save(model, str(path))
    assert is_quantised(load_artifact(path))
