from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from seseg_trt.errors import ModelError, UsageError
from seseg_trt.models.plan_identity import (
    DEFAULT_RTX_TARGETS,
    BuildOptions,
    PlanIdentity,
    build_command,
    check_identity,
    format_profile,
    parse_profile,
    parse_targets,
    plan_key,
)

RTX = BuildOptions(runtime="rtx", targets=("sm86", "sm89"), profiles=((1, 1, 1), (1, 8, 32)))
TRT = BuildOptions(profiles=((1, 8, 32),), workspace=1 << 30, optimization_level=4, tiling_level="fast")
IDENTITY = PlanIdentity(
    graph_sha256="a" * 64,
    graph_name="model.fp16.onnx",
    network="u-seresnet152",
    input_size=256,
    precision="fp16",
    version="1.7.1.116",
    options=RTX,
    targets=RTX.targets,
    metadata={"network": "u-seresnet152"},
)
ON_TENSORRT = dataclasses.replace(IDENTITY, options=TRT, version="11.3.0.99", targets=("sm90",), gpu="NVIDIA H200")
FITTING = {"version": "1.7.1.116", "sm": "sm89"}
COMMAND = "seseg-trt build --model model.fp16.onnx --runtime rtx --target {} --batch 1 --batch 1:8:32 --out p.plan"


def test_a_plan_that_fits_is_taken() -> None:
    check_identity(IDENTITY, "p.plan", **FITTING)


@pytest.mark.parametrize(
    ("field", "value", "words", "command"),
    [
        ("version", "1.8.0.1", "built by rtx 1.7.1.116, and 1.8.0.1 is installed", COMMAND.format("sm86,sm89")),
        ("sm", "sm120", "built for sm86, sm89, and this GPU is sm120", COMMAND.format("sm86,sm89,sm120")),
        (
            "sm",
            "sm90",
            "this GPU is sm90",
            "seseg-trt build --model model.fp16.onnx --runtime tensorrt --batch 1 --batch 1:8:32 --out p.plan",
        ),
    ],
)
def test_each_field_that_differs_is_refused_with_the_command(field: str, value: str, words: str, command: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_identity(IDENTITY, "p.plan", **{**FITTING, field: value})
    assert words in caught.value.message
    assert caught.value.hint == f"build it again: {command}"


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({"profiles": ((1, 64, 64),)}, "--batch 1:64:64"),
        ({"workspace": 1 << 28}, "--batch 1:8:32 --workspace 268435456"),
        ({"optimization_level": 5}, "--optimization-level 5"),
        ({"tiling_level": "full"}, "--tiling-level full"),
        ({"hardware_compatibility": "ampere_plus"}, "--hardware-compatibility ampere_plus"),
        ({"version_compatible": True}, "--version-compatible"),
    ],
)
def test_the_command_has_every_option(change: dict[str, object], flags: str) -> None:
    options = dataclasses.replace(TRT, **change)  # type: ignore[arg-type]
    command = build_command("m.onnx", options, "p.plan")
    assert command.startswith("seseg-trt build --model m.onnx --runtime tensorrt --batch") and flags in command


def test_all_that_differs_is_named_at_once() -> None:
    with pytest.raises(ModelError, match=r"1\.8\.0\.1.*sm120"):
        check_identity(IDENTITY, "p.plan", version="1.8.0.1", sm="sm120")


@pytest.mark.parametrize(("installed", "fits"), [("11.3.0.99", True), ("11.4.0.106", True), ("11.2.9.1", False), ("12.0.0.1", False)])
def test_a_version_compatible_plan_runs_under_later_releases_of_its_major(installed: str, fits: bool) -> None:
    plan = dataclasses.replace(ON_TENSORRT, options=dataclasses.replace(TRT, version_compatible=True))
    if fits:
        check_identity(plan, "p.plan", version=installed, sm="sm90")
    else:
        with pytest.raises(ModelError, match="is installed"):
            check_identity(plan, "p.plan", version=installed, sm="sm90")
    if installed != plan.version:
        with pytest.raises(ModelError, match="is installed"):
            check_identity(ON_TENSORRT, "p.plan", version=installed, sm="sm90")


def test_a_plan_for_ampere_and_later_runs_on_all_of_them() -> None:
    plan = dataclasses.replace(ON_TENSORRT, options=dataclasses.replace(TRT, hardware_compatibility="ampere_plus"))
    check_identity(plan, "p.plan", version=plan.version, sm="sm120")
    with pytest.raises(ModelError, match="this GPU is sm75"):
        check_identity(plan, "p.plan", version=plan.version, sm="sm75")


@pytest.mark.parametrize("identity", [IDENTITY, ON_TENSORRT])
def test_an_identity_survives_json(identity: PlanIdentity) -> None:
    assert PlanIdentity.from_json(identity.to_json()) == identity


def test_the_cache_key_changes_with_every_part() -> None:
    base = ("a" * 64, TRT, "11.4.0.106", "sm90")
    others = [
        ("b" * 64, *base[1:]),
        *[(base[0], dataclasses.replace(TRT, **c), *base[2:]) for c in CHANGES],  # type: ignore[arg-type]
        (*base[:2], "11.3.0.99", "sm90"),
        (*base[:3], "sm80"),
    ]
    keys = {plan_key(*base), *(plan_key(*o) for o in others)}
    assert len(keys) == 1 + len(others)
    assert plan_key(base[0], dataclasses.replace(TRT, timing_cache=Path("t")), *base[2:]) == plan_key(*base)
    assert plan_key("a", RTX, "1.7", "sm86") == plan_key("a", RTX, "1.7", "sm120") == plan_key("a", RTX, "1.7")


CHANGES: list[dict[str, object]] = [
    {"profiles": ((1, 1, 1),)},
    {"workspace": None},
    {"optimization_level": 5},
    {"tiling_level": "full"},
    {"hardware_compatibility": "same_compute_capability"},
    {"version_compatible": True},
]


@pytest.mark.parametrize(
    "arguments",
    [
        {"runtime": "trt"},
        {"runtime": "rtx", "targets": ("sm90",)},
        {"runtime": "rtx", "version_compatible": True},
        {"runtime": "rtx", "hardware_compatibility": "ampere_plus"},
        {"targets": ("sm86",)},
        {"hardware_compatibility": "all"},
        {"tiling_level": "some"},
        {"optimization_level": 6},
        {"workspace": 0},
        {"profiles": ()},
        {"profiles": ((1, 8, 4),)},
        {"profiles": ((0, 1, 1),)},
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        BuildOptions(**arguments)  # type: ignore[arg-type]
    assert caught.value.hint


def test_rtx_has_targets_of_its_own() -> None:
    assert BuildOptions(runtime="rtx").targets == DEFAULT_RTX_TARGETS


def test_what_users_write_is_read() -> None:
    assert parse_targets("SM86, sm89,sm86") == ("sm86", "sm89")
    assert parse_profile("1:8:32") == (1, 8, 32)
    assert parse_profile("16") == (16, 16, 16)
    assert [format_profile(parse_profile(t)) for t in ("1:8:32", "16")] == ["1:8:32", "16"]
    for wrong in ("", "1:2", "a", "-1", "1:2:3:4"):
        with pytest.raises(UsageError):
            parse_profile(wrong)
    for wrong in ("", "86", "sm8x", "sm86 sm89"):
        with pytest.raises(UsageError):
            parse_targets(wrong)


def test_the_command_survives_the_shell() -> None:
    command = build_command("my models/m.onnx", RTX, "it's.plan")
    words = shlex.split(command)
    assert words[words.index("--model") + 1] == "my models/m.onnx" and words[-1] == "it's.plan"
