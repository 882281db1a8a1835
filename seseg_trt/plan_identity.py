"""What a TensorRT plan was built from, for what, and how; and the refusal of a plan that is not the one needed.

A plan runs only under the exact TensorRT that built it, on the compute capability that it was built for, and it
computes what its graph computed: TensorRT checks some of this late, and the graph never. So all of it is kept with the
plan (see :mod:`seseg_trt.plan_file`), is checked before TensorRT sees the plan, and a refusal names the command that
mends it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import ModelError, UsageError

Runtime = Literal["tensorrt", "rtx"]
TilingLevel = Literal["none", "fast", "moderate", "full"]
HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
Profile = tuple[int, int, int]

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
DEFAULT_RTX_TARGETS = ("sm80", "sm86", "sm89", "sm120")
DEFAULT_PROFILES: tuple[Profile, ...] = ((1, 1, 1), (1, 32, 128))


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """How a plan is built. None everywhere means: what TensorRT takes by itself.

    Attributes:
        runtime: ``tensorrt`` (for the GPU of this machine) or ``rtx`` (for the GPUs of ``targets``; needs no GPU).
        targets: compute capabilities as ``sm86``, for ``rtx`` alone; empty: :data:`DEFAULT_RTX_TARGETS`.
        profiles: batch sizes (least, best, most), one triple an optimization profile.
        workspace: the most scratch memory that a layer may take, in bytes.
        optimization_level: 0 to 5: how long TensorRT may search.
        tiling_level: how hard it tries to keep tiles in the L2 cache.
        hardware_compatibility: ``ampere_plus`` runs on any GPU from Ampere on, slower.
        version_compatible: runs under later releases of the same major version too; it then holds executable code.
        timing_cache: a file of layer timings that is read and brought up to date; no part of the identity.
    """

    runtime: Runtime = "tensorrt"
    targets: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = DEFAULT_PROFILES
    workspace: int | None = None
    optimization_level: int | None = None
    tiling_level: TilingLevel | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    timing_cache: Path | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.runtime not in get_args(Runtime):
            raise UsageError(f"there is no runtime {self.runtime!r}", "choose tensorrt or rtx")
        if self.runtime == "rtx":
            if not self.targets:
                object.__setattr__(self, "targets", DEFAULT_RTX_TARGETS)
            unknown = [t for t in self.targets if t not in RTX_TARGETS]
            if unknown:
                raise UsageError(
                    f"TensorRT for RTX builds no plan for {', '.join(unknown)}",
                    f"its targets are {', '.join(RTX_TARGETS)}; --runtime tensorrt builds for the GPU of this machine",
                )
            if self.hardware_compatibility != "none" or self.version_compatible:
                raise UsageError("TensorRT for RTX has no such compatibility", "its plans are portable by --target")
        elif self.targets:
            raise UsageError("--target is for --runtime rtx", "TensorRT builds for the GPU of this machine alone")
        if self.hardware_compatibility not in get_args(HardwareCompatibility):
            raise UsageError(
                f"there is no hardware compatibility {self.hardware_compatibility!r}",
                f"choose from {', '.join(get_args(HardwareCompatibility))}",
            )
        if self.tiling_level is not None and self.tiling_level not in get_args(TilingLevel):
            raise UsageError(f"there is no tiling level {self.tiling_level!r}", f"choose from {', '.join(get_args(TilingLevel))}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"the optimization level {self.optimization_level} is not within 0 to 5", "3 is usual")
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"a workspace of {self.workspace} bytes holds nothing", "leave it out, or give more")
        if not self.profiles:
            raise UsageError("a plan needs at least one batch profile", "give --batch MIN:OPT:MAX")
        for low, best, high in self.profiles:
            if not 1 <= low <= best <= high:
                raise UsageError(f"{low}:{best}:{high} is no batch profile", "MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")

    def identity(self) -> dict[str, Any]:
        """Return what of it decides the plan."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare}


@dataclasses.dataclass(frozen=True)
class PlanIdentity:
    """What a plan says of itself.

    Attributes:
        graph_sha256: of the ONNX file that it was built from, hex.
        graph_name: that file's name, for people.
        network: ``u-seresnet152`` and the like.
        input_size: the side of the square input, in pixels.
        precision: the graph's: ``fp32``, ``fp16``, ``int8``, ``fp8``.
        version: of TensorRT or TensorRT for RTX, all its parts.
        options: how it was built; ``options.runtime`` is the flavour.
        targets: compute capabilities that it was built for: one for TensorRT.
        gpu: the name of the GPU on which it was built, or an empty string.
        metadata: what the graph said of itself (see :mod:`seseg_trt.artifact`).
        plan_sha256: of TensorRT's own bytes, hex.
        plan_bytes: how many they are.
    """

    graph_sha256: str
    graph_name: str
    network: str
    input_size: int
    precision: str
    version: str
    options: BuildOptions
    targets: tuple[str, ...]
    gpu: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    plan_sha256: str = ""
    plan_bytes: int = 0

    @property
    def runtime(self) -> Runtime:
        """The flavour of TensorRT: ``tensorrt`` or ``rtx``."""
        return self.options.runtime

    @property
    def max_batch(self) -> int:
        """The largest batch of any profile."""
        return max(high for _, _, high in self.options.profiles)

    def __str__(self) -> str:
        batches = ", ".join(format_profile(p) for p in self.options.profiles)
        return (
            f"{self.network}, {self.precision}, {self.runtime} {self.version} for {', '.join(self.targets)},"
            f" batch {batches}, from {self.graph_name} (sha256 {self.graph_sha256[:12]})"
        )

    def to_json(self) -> str:
        """Return it as JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({**fields, "options": self.options.identity()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PlanIdentity:
        """Read it back; anything else raises KeyError, TypeError, ValueError or UsageError."""
        fields = json.loads(text)
        options = fields["options"]
        profiles = tuple((int(low), int(best), int(high)) for low, best, high in options["profiles"])
        fields["options"] = BuildOptions(**{**options, "targets": tuple(options["targets"]), "profiles": profiles})
        return cls(**{**fields, "targets": tuple(fields["targets"])})


def plan_key(graph_sha256: str, options: BuildOptions, version: str, sm: str = "") -> str:
    """Return a SHA-256 (hex) of all that decides a plan: where a cache keeps it.

    Args:
        graph_sha256: of the ONNX file.
        options: how it is built.
        version: of TensorRT, all its parts.
        sm: the compute capability of the GPU (``sm90``) that ``tensorrt`` builds on; not used for ``rtx``.
    """
    targets = options.targets if options.runtime == "rtx" else (sm,)
    text = json.dumps([1, graph_sha256, options.identity(), version, targets], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_targets(text: str) -> tuple[str, ...]:
    """Read ``sm86,sm89``; raise UsageError."""
    targets = tuple(dict.fromkeys(t.strip().lower() for t in text.split(",") if t.strip()))
    wrong = [t for t in targets if not re.fullmatch(r"sm\d{2,3}", t)]
    if wrong or not targets:
        raise UsageError(f"{text!r} names no compute capabilities", "write them as --target sm86,sm89,sm120")
    return targets


def parse_profile(text: str) -> Profile:
    """Read ``MIN:OPT:MAX``, or ``N`` for a fixed batch; raise UsageError."""
    match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text.strip())
    if not match:
        raise UsageError(f"{text!r} is no batch profile", "write MIN:OPT:MAX, as in --batch 1:32:128, or one number")
    low, best, high = match.groups()
    return (int(low), int(best or low), int(high or low))


def format_profile(profile: Profile) -> str:
    """Write a profile as :func:`parse_profile` reads it."""
    return str(profile[0]) if profile[0] == profile[2] else ":".join(map(str, profile))


def build_command(graph: str | Path, options: BuildOptions, out: str | Path) -> str:
    """Return the shell command that builds such a plan; options at their default are left out."""
    words = ["seseg-trt", "build", "--model", str(graph), "--runtime", options.runtime]
    if options.runtime == "rtx":
        words += ["--target", ",".join(options.targets)]
    for profile in options.profiles:
        words += ["--batch", format_profile(profile)]
    if options.workspace is not None:
        words += ["--workspace", str(options.workspace)]
    if options.optimization_level is not None:
        words += ["--optimization-level", str(options.optimization_level)]
    if options.tiling_level is not None:
        words += ["--tiling-level", options.tiling_level]
    if options.hardware_compatibility != "none":
        words += ["--hardware-compatibility", options.hardware_compatibility]
    if options.version_compatible:
        words.append("--version-compatible")
    return shlex.join([*words, "--out", str(out)])


def check_identity(
    identity: PlanIdentity,
    plan: str | Path,
    *,
    graph: str | Path | None = None,
    graph_sha256: str | None = None,
    precision: str | None = None,
    runtime: Runtime | None = None,
    version: str | None = None,
    sm: str | None = None,
    options: BuildOptions | None = None,
) -> None:
    """Refuse a plan that is not the one needed.

    Args:
        identity: what the plan says of itself.
        plan: its path, for the message.
        graph: the path of the graph that is wanted, for the command; None: the name of the one that it was built from.
        graph_sha256: of the graph that is wanted. This and all that follow: None is not checked.
        precision: of the graph that is wanted.
        runtime: the flavour of TensorRT that shall run it.
        version: of the TensorRT that is installed.
        sm: the compute capability of the GPU that shall run it.
        options: how it should have been built.

    Raises:
        ModelError: with everything that differs, and the command that builds the right one.
    """
    wrong: list[str] = []
    needed = options or identity.options
    if graph_sha256 is not None and graph_sha256 != identity.graph_sha256:
        wrong.append(f"it was built from another graph (sha256 {identity.graph_sha256[:12]}, not {graph_sha256[:12]})")
    if precision is not None and precision != identity.precision:
        wrong.append(f"it computes in {identity.precision}, not {precision}")
    if runtime is not None and runtime != identity.runtime:
        wrong.append(f"it is for the runtime {identity.runtime}, not {runtime}")
        needed = _for_runtime(needed, runtime)
    if version is not None and not _version_fits(identity, version):
        wrong.append(f"it was built by {identity.runtime} {identity.version}, and {version} is installed")
    if sm is not None and not _capability_fits(identity, sm):
        wrong.append(f"it was built for {', '.join(identity.targets)}, and this GPU is {sm}")
        needed = _for_capability(needed, sm)
    if options is not None:
        wrong += _differing_options(identity.options, options)
    if wrong:
        command = build_command(graph or identity.graph_name, needed, plan)
        raise ModelError(f"the plan {plan} does not fit: {'; '.join(wrong)}", f"build it again: {command}")


def _version_fits(identity: PlanIdentity, version: str) -> bool:
    if not identity.options.version_compatible:
        return version == identity.version
    built, installed = ([int(n) for n in re.findall(r"\d+", v)[:4]] for v in (identity.version, version))
    return built[:1] == installed[:1] and installed >= built


def _capability_fits(identity: PlanIdentity, sm: str) -> bool:
    if identity.options.hardware_compatibility == "ampere_plus":
        return int(sm[2:]) >= 80
    return sm in identity.targets


def _for_runtime(options: BuildOptions, runtime: Runtime) -> BuildOptions:
    return dataclasses.replace(options, runtime=runtime, targets=(), hardware_compatibility="none", version_compatible=False)


def _for_capability(options: BuildOptions, sm: str) -> BuildOptions:
    if options.runtime == "tensorrt":
        return options
    if sm not in RTX_TARGETS:
        return _for_runtime(options, "tensorrt")
    return dataclasses.replace(options, targets=tuple(dict.fromkeys([*options.targets, sm])))


def _differing_options(built: BuildOptions, wanted: BuildOptions) -> list[str]:
    return [
        f"{name.replace('_', ' ')} is {getattr(built, name)!r}, not {value!r}"
        for name, value in wanted.identity().items()
        if name != "runtime" and getattr(built, name) != value
    ]
