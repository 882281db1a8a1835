"""Describe what a TensorRT plan was built from and how, and refuse a plan that does not fit.

A plan runs only with the TensorRT version and the compute capability that it was built for, and it computes what its graph computes.
TensorRT checks the first two late, and the graph never. So the identity is stored with the plan (see
:mod:`seseg_trt.models.plan_file`) and is checked before TensorRT loads it. A refusal names the command that builds the right plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ModelError, UsageError

Runtime = Literal["tensorrt", "rtx"]
TilingLevel = Literal["none", "fast", "moderate", "full"]
HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
Profile = tuple[int, int, int]

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
DEFAULT_RTX_TARGETS = ("sm80", "sm86", "sm89", "sm120")
DEFAULT_PROFILES: tuple[Profile, ...] = ((1, 1, 1), (1, 32, 128))


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """Options for building a plan. None selects TensorRT's default.

    Attributes:
        runtime: ``tensorrt`` (builds on and for this machine's GPU) or ``rtx`` (builds for the GPUs of ``targets``, without a GPU).
        targets: compute capabilities such as ``sm86``, for ``rtx`` alone; empty selects :data:`DEFAULT_RTX_TARGETS`.
        profiles: optimization profiles, each a triple of batch sizes (least, best, most).
        workspace: the largest scratch memory of a layer, in bytes.
        optimization_level: 0 to 5; higher levels search longer for faster kernels.
        tiling_level: how much effort to spend on keeping tiles in the L2 cache.
        hardware_compatibility: ``ampere_plus`` makes a slower plan that runs on all GPUs since Ampere.
        version_compatible: make a plan that also runs with later minor versions; it then contains executable code.
        timing_cache: a file of layer timings that is read and updated; not a part of the identity.

    Raises:
        UsageError: a value is unknown or out of range, or the values exclude each other.
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
                raise UsageError(f"{low}:{best}:{high} is not a batch profile", "MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")

    def identity(self) -> dict[str, Any]:
        """Return the options that determine the plan, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare}


@dataclasses.dataclass(frozen=True)
class PlanIdentity:
    """The identity of a plan: what it was built from, with what, and for which GPUs.

    Attributes:
        graph_sha256: the SHA-256 of the ONNX file that it was built from, hex.
        graph_name: the name of that file, for messages.
        network: the network's name, such as ``u-seresnet152``.
        input_size: the side of the square input, in pixels.
        precision: the graph's precision: ``fp32``, ``fp16``, ``int8`` or ``fp8``.
        version: the version of TensorRT or TensorRT for RTX, with all its parts.
        options: the build options, including the runtime.
        targets: the compute capabilities that it was built for; exactly one for TensorRT.
        gpu: the name of the GPU that it was built on, or an empty string.
        metadata: the graph's metadata (see :mod:`seseg_trt.models.artifact`).
        plan_sha256: the SHA-256 of the serialised plan, hex.
        plan_bytes: the size of the serialised plan, in bytes.
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
        """The runtime that built the plan: ``tensorrt`` or ``rtx``."""
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
        """Return the identity as JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({**fields, "options": self.options.identity()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PlanIdentity:
        """Parse the result of :meth:`to_json`; raise KeyError, TypeError, ValueError or UsageError for any other text."""
        fields = json.loads(text)
        options = fields["options"]
        profiles = tuple((int(low), int(best), int(high)) for low, best, high in options["profiles"])
        fields["options"] = BuildOptions(**{**options, "targets": tuple(options["targets"]), "profiles": profiles})
        return cls(**{**fields, "targets": tuple(fields["targets"])})


def plan_key(graph_sha256: str, options: BuildOptions, version: str, sm: str = "") -> str:
    """Return a SHA-256 (hex) of everything that determines a plan, as its key in a cache.

    Args:
        graph_sha256: the SHA-256 of the ONNX file, hex.
        options: the build options.
        version: the TensorRT version with all its parts.
        sm: for ``tensorrt``, the compute capability of the GPU that builds, such as ``sm90``; ignored for ``rtx``.
    """
    targets = options.targets if options.runtime == "rtx" else (sm,)
    text = json.dumps([1, graph_sha256, options.identity(), version, targets], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_targets(text: str) -> tuple[str, ...]:
    """Parse compute capabilities such as ``sm86,sm89``; raise UsageError if the text is malformed."""
    targets = tuple(dict.fromkeys(t.strip().lower() for t in text.split(",") if t.strip()))
    wrong = [t for t in targets if not re.fullmatch(r"sm\d{2,3}", t)]
    if wrong or not targets:
        raise UsageError(f"{text!r} is not a list of compute capabilities", "write them as --target sm86,sm89,sm120")
    return targets


def parse_profile(text: str) -> Profile:
    """Parse ``MIN:OPT:MAX``, or ``N`` for a fixed batch size; raise UsageError if the text is malformed."""
    match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a batch profile", "write MIN:OPT:MAX, as in --batch 1:32:128, or one number")
    low, best, high = match.groups()
    return (int(low), int(best or low), int(high or low))


def format_profile(profile: Profile) -> str:
    """Format a profile for :func:`parse_profile`."""
    return str(profile[0]) if profile[0] == profile[2] else ":".join(map(str, profile))


def build_command(graph: str | Path, options: BuildOptions, out: str | Path) -> str:
    """Return the shell command that builds a plan, without options that have their default value."""
    words = ["seseg-trt", "build", "--model", str(graph), "--runtime", options.runtime]
    if options.runtime == "rtx":
        words += ["--target", ",".join(options.targets)]
    for profile in options.profiles:
        words += ["--batch", format_profile(profile)]
    for name in ("workspace", "optimization_level", "tiling_level"):
        if (value := getattr(options, name)) is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    if options.hardware_compatibility != "none":
        words += ["--hardware-compatibility", options.hardware_compatibility]
    if options.version_compatible:
        words.append("--version-compatible")
    return shlex.join([*words, "--out", str(out)])


def check_identity(identity: PlanIdentity, plan: str | Path, *, version: str, sm: str) -> None:
    """Refuse a plan that can't run here.

    Args:
        identity: the plan's identity.
        plan: the plan's path, for the message.
        version: the installed version of its runtime.
        sm: the compute capability of the GPU that will run the plan.

    Raises:
        ModelError: the plan does not fit. The message lists all differences and the command that builds the right plan.
    """
    wrong: list[str] = []
    needed = identity.options
    if not _version_fits(identity, version):
        wrong.append(f"it was built by {identity.runtime} {identity.version}, and {version} is installed")
    if not _capability_fits(identity, sm):
        wrong.append(f"it was built for {', '.join(identity.targets)}, and this GPU is {sm}")
        needed = _for_capability(needed, sm)
    if wrong:
        raise ModelError(
            f"the plan {plan} does not fit: {'; '.join(wrong)}", f"build it again: {build_command(identity.graph_name, needed, plan)}"
        )


def _version_fits(identity: PlanIdentity, version: str) -> bool:
    if not identity.options.version_compatible:
        return version == identity.version
    built, installed = ([int(n) for n in re.findall(r"\d+", v)[:4]] for v in (identity.version, version))
    return built[:1] == installed[:1] and installed >= built


def _capability_fits(identity: PlanIdentity, sm: str) -> bool:
    if identity.options.hardware_compatibility == "ampere_plus":
        return int(sm[2:]) >= 80
    return sm in identity.targets


def _for_capability(options: BuildOptions, sm: str) -> BuildOptions:
    if options.runtime == "tensorrt":
        return options
    if sm not in RTX_TARGETS:
        return dataclasses.replace(options, runtime="tensorrt", targets=(), hardware_compatibility="none", version_compatible=False)
    return dataclasses.replace(options, targets=tuple(dict.fromkeys([*options.targets, sm])))
