"""Build a TensorRT plan with its identity from an ONNX graph.

The network is strongly typed: the graph alone decides the precision, not builder flags (TensorRT 11 has none for it).
TensorRT for RTX builds plans without a GPU. TensorRT builds on the GPU that will run the plan.
"""

from __future__ import annotations

import logging
import operator
import os
from pathlib import Path
from typing import Any

from ..cuda import driver
from ..errors import DeviceError, ModelError
from ..models.artifact import INPUT_NAME, load_artifact
from ..models.plan_file import only_builder, read_identity, write_plan
from ..models.plan_identity import BuildOptions, PlanIdentity, plan_key
from ..storage.atomic import atomic_write
from .tensorrt_api import FLAVOURS, Progress, load, logger, progress_monitor

_log = logging.getLogger(__name__)

_MESSAGES_SHOWN = 8
_DECISIVE = operator.attrgetter("graph_sha256", "version", "targets", "options")


def plan_name(stem: str, identity: PlanIdentity) -> str:
    """Return a plan's file name, such as ``model.fp16.rtx.sm86-sm89.plan``."""
    return f"{stem}.{identity.precision}.{identity.runtime}.{'-'.join(identity.targets)}.plan"


def expected_identity(graph: Path, options: BuildOptions) -> PlanIdentity:
    """Return the identity of a plan that would be built now, without the plan's size and hash.

    Raises:
        ModelError: the file is not a graph of this network.
        DeviceError: the runtime is not installed; or, for ``tensorrt``, there is no GPU to build on.
    """
    artifact = load_artifact(graph)
    if artifact.kind != "onnx":
        raise ModelError(f"{graph} is a plan already", "plans are built from an ONNX graph: give --model an .onnx file")
    version = load(options.runtime).__version__
    gpus: tuple[driver.Gpu, ...] = ()
    if not FLAVOURS[options.runtime].targets:
        gpus = driver.driver_report().gpus[:1]
        if not gpus:
            raise DeviceError("TensorRT builds on a GPU, and the driver shows none", "--runtime rtx builds without one")
    return PlanIdentity(
        graph_sha256=artifact.sha256,
        graph_name=artifact.path.name,
        network=artifact.network,
        input_size=artifact.input_size,
        precision=artifact.precision,
        version=version,
        options=options,
        targets=tuple(gpu.sm for gpu in gpus) or options.targets,
        gpu="".join(gpu.name for gpu in gpus),
        metadata=artifact.metadata,
    )


def build_plan(graph: Path, out: Path, options: BuildOptions, progress: Progress | None = None) -> PlanIdentity:
    """Build a plan, unless ``out`` already holds one with the same identity.

    If several processes build the same file, one builds and the others wait for its result. The file is written atomically.

    Args:
        graph: an ONNX graph of this network.
        out: the path of the plan. A plan with another identity is replaced.
        options: how to build.
        progress: called from the building thread with the phase's name, the steps done and the total steps. An exception that it
            raises cancels the build and propagates.

    Returns:
        The plan's identity.

    Raises:
        ModelError: the file is not a graph of this network, or TensorRT refuses it. The error includes TensorRT's messages.
        DeviceError: the runtime or its GPU is missing, or the build failed.
        UsageError: ``out`` can't be written.
    """
    return _build(graph, out, expected_identity(graph, options), progress)


def cached_plan(graph: Path, folder: Path, options: BuildOptions, progress: Progress | None = None) -> tuple[Path, PlanIdentity, bool]:
    """Return the plan of a graph from a folder of plans, building it there the first time.

    The file name contains a hash of everything that determines the plan: graph, options, TensorRT version and GPU.

    Args:
        graph: an ONNX graph of this network.
        folder: the folder of plans.
        options: how to build.
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
    return there if _DECISIVE(there) == _DECISIVE(wanted) else None


def serialize(graph: Path, options: BuildOptions, input_size: int, progress: Progress | None = None) -> memoryview:
    """Run TensorRT's builder and return the serialised plan; raise as :func:`build_plan` does."""
    trt = load(options.runtime)
    flavour = FLAVOURS[options.runtime]
    log, messages = logger(options.runtime)
    with messages.kept() as said:
        try:
            builder = trt.Builder(log)
        except TypeError as error:
            raise DeviceError(_with_messages(f"{flavour.title} can't start its builder", said)) from error
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            faults = [parser.get_error(i) for i in range(parser.num_errors)]
            reasons = [f"node {fault.node()} ({fault.node_operator()} {fault.node_name()!r}): {fault.desc()}" for fault in faults]
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


def _configure(trt: Any, config: Any, options: BuildOptions) -> None:
    # TF32 is on by default and would change the masks of an FP32 graph.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.tiling_level is not None:
        config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, options.tiling_level.upper())
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility.upper()
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
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
    # TensorRT refuses a cache of another GPU or version: start with an empty one, which replaces it.
    if not config.set_timing_cache(config.create_timing_cache(kept), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timing_cache(config: Any, path: Path) -> None:
    timings = config.get_timing_cache()
    if timings is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(timings.serialize())
    except OSError as error:
        # The plan itself was built; only the next build will be slower.
        _log.warning("the timing cache %s can't be kept: %s", path, os.strerror(error.errno or 0))


def _with_messages(sentence: str, said: list[str]) -> str:
    return "\n  ".join([f"{sentence}:" if said else sentence, *said[-_MESSAGES_SHOWN:]])
