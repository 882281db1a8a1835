"""From an ONNX graph to a TensorRT plan with its identity.

The network is strongly typed: its precision is the graph's, and no builder flag changes it (TensorRT 11 has none left).
TensorRT for RTX builds for GPUs that are not there; TensorRT itself builds on the GPU that will run the plan.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import INPUT_NAME, Artifact, load_artifact
from ..errors import DeviceError, ModelError
from ..plan_file import only_builder, read_identity, write_plan
from ..plan_identity import BuildOptions, PlanIdentity, plan_key
from .tensorrt_api import FLAVOURS, Progress, load, logger, progress_monitor

if TYPE_CHECKING:
    from ..driver import Gpu

_log = logging.getLogger(__name__)

_MESSAGES_SHOWN = 8


def plan_name(stem: str, identity: PlanIdentity) -> str:
    """Return a file name for a plan that lies beside others: ``model.fp16.rtx.sm86-sm89.plan``."""
    return f"{stem}.{identity.precision}.{identity.runtime}.{'-'.join(identity.targets)}.plan"


def expected_identity(graph: Path, options: BuildOptions) -> PlanIdentity:
    """Return the identity that a plan built now would have, without the plan's own size and hash.

    Raises:
        ModelError: the graph is not one of this network.
        DeviceError: the runtime is not installed; or, for ``tensorrt``, there is no GPU to build on.
    """
    artifact = load_artifact(graph)
    if artifact.kind != "onnx":
        raise ModelError(f"{graph} is a plan already", "plans are built from an ONNX graph: give --model an .onnx file")
    trt = load(options.runtime)
    gpu = None if FLAVOURS[options.runtime].targets else _building_gpu()
    return _identity(artifact, options, trt.__version__, gpu)


def _identity(artifact: Artifact, options: BuildOptions, version: str, gpu: Gpu | None) -> PlanIdentity:
    return PlanIdentity(
        graph_sha256=artifact.sha256,
        graph_name=artifact.path.name,
        network=artifact.network,
        input_size=artifact.input_size,
        precision=artifact.precision,
        version=version,
        options=options,
        targets=options.targets if gpu is None else (gpu.sm,),
        gpu="" if gpu is None else gpu.name,
        metadata=artifact.metadata,
    )


def _building_gpu() -> Gpu:
    from ..driver import driver_report

    gpus = driver_report().gpus
    if not gpus:
        raise DeviceError("TensorRT builds on a GPU, and the driver shows none", "--runtime rtx builds without one")
    return gpus[0]


def build_plan(graph: Path, out: Path, options: BuildOptions, progress: Progress | None = None) -> PlanIdentity:
    """Build a plan, unless one with the same identity lies there already.

    Of several processes that build the same file one builds, and the others wait and take its result. The file appears
    whole or not at all.

    Args:
        graph: an ONNX graph of this network.
        out: where the plan goes; another plan there is replaced.
        options: how.
        progress: called from the building thread with the phase's name, the steps done and the steps in all. What it
            raises ends the build and is raised again.

    Returns:
        The plan's identity.

    Raises:
        ModelError: the graph is not one of this network, or TensorRT refuses it; its messages are in the error.
        DeviceError: the runtime or its GPU is missing, or the build failed.
        UsageError: ``out`` can't be written.
    """
    return _build(graph, out, expected_identity(graph, options), progress)


def cached_plan(graph: Path, folder: Path, options: BuildOptions, progress: Progress | None = None) -> tuple[Path, PlanIdentity, bool]:
    """Find the plan of a graph in a folder of plans, or build it there, once.

    The file's name holds the key of all that decides the plan: another graph, option, TensorRT or GPU has another file.

    Args:
        graph: an ONNX graph of this network.
        folder: of plans.
        options: how it is built.
        progress: as in :func:`build_plan`.

    Returns:
        The plan's path, its identity, and whether it was built now.

    Raises:
        ModelError, DeviceError, UsageError: as :func:`build_plan`.
    """
    wanted = expected_identity(graph, options)
    sm = "" if FLAVOURS[options.runtime].targets else wanted.targets[0]
    key = plan_key(wanted.graph_sha256, options, wanted.version, sm)
    path = folder / f"{plan_name(graph.stem, wanted).removesuffix('.plan')}.{key[:16]}.plan"
    there = _same_plan(path, wanted)
    if there is not None:
        return path, there, False
    _log.info("building %s, once: %s", path, wanted)
    return path, _build(graph, path, wanted, progress), True


def _build(graph: Path, out: Path, wanted: PlanIdentity, progress: Progress | None) -> PlanIdentity:
    def waiting() -> None:
        _log.warning("another process is building %s; waiting for it", out)
        if progress is not None:
            progress("waiting for another builder of the same plan", 0, 1)

    with only_builder(out, waiting):
        there = _same_plan(out, wanted)
        if there is not None:
            _log.info("%s is built already", out)
            return there
        return write_plan(out, wanted, serialize(graph, wanted.options, wanted.input_size, progress))


def _same_plan(out: Path, wanted: PlanIdentity) -> PlanIdentity | None:
    try:
        there = read_identity(out)
    except ModelError:
        return None
    same = (there.graph_sha256, there.version, there.targets, there.options) == (
        wanted.graph_sha256,
        wanted.version,
        wanted.targets,
        wanted.options,
    )
    return there if same else None


def serialize(graph: Path, options: BuildOptions, input_size: int, progress: Progress | None = None) -> memoryview:
    """Run TensorRT's builder and return its bytes; raises as :func:`build_plan` does."""
    trt = load(options.runtime)
    flavour = FLAVOURS[options.runtime]
    log, messages = logger(options.runtime)
    with messages.turn, messages.kept() as said:
        try:
            builder = trt.Builder(log)
        except TypeError as error:
            raise DeviceError(_with_messages(f"{flavour.title} can't start its builder", said)) from error
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            reasons = [_fault(parser.get_error(i)) for i in range(parser.num_errors)]
            raise ModelError(
                _with_messages(f"{flavour.title} {trt.__version__} can't read {graph}", reasons or said),
                "build_engine.py makes graphs that it reads",
            )
        config = builder.create_builder_config()
        _configure(trt, config, options)
        for low, best, high in options.profiles:
            profile = builder.create_optimization_profile()
            profile.set_shape(INPUT_NAME, *((n, input_size, input_size, 3) for n in (low, best, high)))
            if config.add_optimization_profile(profile) < 0:
                raise ModelError(_with_messages(f"{graph} does not take batches of {low} to {high}", said))
        if flavour.timing_cache and options.timing_cache is not None:
            _use_timing_cache(config, options.timing_cache)
        monitor = progress_monitor(trt, progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor.failure is not None:
            raise monitor.failure
        if plan is None:
            raise DeviceError(
                _with_messages(f"{flavour.title} {trt.__version__} built no plan from {graph}", said),
                "a smaller --batch or --workspace needs less memory; the log has all that it said",
            )
        if flavour.timing_cache and options.timing_cache is not None:
            _keep_timing_cache(config, options.timing_cache)
        return memoryview(plan)


def _fault(fault: Any) -> str:
    return f"node {fault.node()} ({fault.node_operator()} {fault.node_name()!r}): {fault.desc()}"


def _configure(trt: Any, config: Any, options: BuildOptions) -> None:
    # TF32 is on by default, and would give an FP32 graph masks of its own.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.tiling_level is not None:
        config.tiling_optimization_level = {
            "none": trt.TilingOptimizationLevel.NONE,
            "fast": trt.TilingOptimizationLevel.FAST,
            "moderate": trt.TilingOptimizationLevel.MODERATE,
            "full": trt.TilingOptimizationLevel.FULL,
        }[options.tiling_level]
    if options.hardware_compatibility != "none":
        config.hardware_compatibility_level = {
            "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
            "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
        }[options.hardware_compatibility]
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if FLAVOURS[options.runtime].targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)


def _use_timing_cache(config: Any, path: Path) -> None:
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    # A cache of another GPU or version is refused: then the timings are taken anew, and replace it.
    if not config.set_timing_cache(config.create_timing_cache(kept), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timing_cache(config: Any, path: Path) -> None:
    timings = config.get_timing_cache()
    if timings is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(timings.serialize())
        Path(file.name).replace(path)
    except OSError as error:
        # The plan is there; only the next build will be slower.
        _log.warning("the timing cache %s can't be kept: %s", path, os.strerror(error.errno or 0))


def _with_messages(sentence: str, said: list[str]) -> str:
    return "\n  ".join([f"{sentence}:" if said else sentence, *said[-_MESSAGES_SHOWN:]])
