"""TensorRT's Python API over the fake GPU: the network is the mean of the channels, as in ``FakeBackend``.

A "plan" is any bytes that begin with :data:`PLAN`. Each class has names of the real API alone; a test holds them to it.
"""

from __future__ import annotations

import enum
import types
from typing import Any

import numpy as np

from .fake_gpu import Gpu, bytes_at

PLAN = b"fake plan"
SCRATCH_PER_IMAGE = 1000
FLAGS_TF32 = 5


class _Named(enum.IntEnum):
    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last: list[int]) -> int:
        return count


def make_tensorrt(gpu: Gpu, size: int, *, version: str = "11.4.0.106", float_output: bool = False) -> types.ModuleType:
    """Return a module as ``tensorrt``; what is built with it lies in ``module.built``."""
    trt = types.ModuleType("tensorrt")
    trt.__dict__.update(__version__=version, built=[], contexts=[])

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def log(self, severity: Any, text: str) -> None:
            raise NotImplementedError

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class IProgressMonitor:
        pass

    class ExecutionContextAllocationStrategy(enum.Enum):
        STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)

    class IExecutionContext:
        def __init__(self, engine: Any) -> None:
            self._engine, self._profile, self._shape = engine, 0, (0, 0, 0, 0)
            self._addresses: dict[str, int] = {}
            self._memory = (0, 0)

        def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
            gpu.need_context()
            self._profile = profile
            return 0 <= profile < engine_profiles(self._engine)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._shape = shape
            return name == "image"

        def update_device_memory_size_for_shapes(self) -> int:
            return self._shape[0] * SCRATCH_PER_IMAGE

        def set_device_memory(self, address: int, size: int) -> None:
            self._memory = (address, size)

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return name in self._engine._names

        def execute_async_v3(self, stream: int) -> bool:
            gpu.need_context()
            batch = self._shape[0]
            scratch, room = self._memory
            assert room >= batch * SCRATCH_PER_IMAGE, "too little device memory for the shapes"
            assert set(self._addresses) == set(self._engine._names), "a tensor has no address"
            addresses = dict(self._addresses)

            def work() -> None:
                gpu.check(scratch, batch * SCRATCH_PER_IMAGE)
                bytes_at(scratch, batch * SCRATCH_PER_IMAGE)[:] = 0x77
                images = bytes_at(addresses["image"], batch * size * size * 3).reshape(-1, 3)
                mean = (images.astype(np.uint16).sum(axis=1) // 3).astype(np.uint8)
                gpu.check(addresses["confidence"], mean.size)
                bytes_at(addresses["confidence"], mean.size)[:] = mean
                if "p" in addresses:
                    gpu.check(addresses["p"], mean.size * 4)
                    bytes_at(addresses["p"], mean.size * 4)[:] = 1

            trt.runs = [*trt.__dict__.get("runs", []), (batch, stream, self._profile)]  # type: ignore[attr-defined]
            gpu.enqueue(stream, work)
            return True

    class IRuntimeConfig:
        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self._strategy = strategy

    def engine_profiles(engine: Any) -> int:
        return int(engine._profiles)

    class ICudaEngine:
        def __init__(self, profiles: int) -> None:
            self._names = ["image", "confidence", *(["p"] if float_output else [])]
            self._profiles = profiles

        @property
        def num_io_tensors(self) -> int:
            return len(self._names)

        def get_tensor_name(self, index: int) -> str:
            return self._names[index]

        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

        def create_execution_context(self, how: Any) -> IExecutionContext:
            gpu.need_context()
            strategy = how._strategy if isinstance(how, IRuntimeConfig) else how
            assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
            context = IExecutionContext(self)
            context._graphs_by_runtime = getattr(how, "cuda_graph_strategy", None)
            trt.contexts.append(context)
            return context

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            gpu.need_context()
            self._logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, payload: memoryview) -> ICudaEngine | None:
            if bytes(payload[: len(PLAN)]) != PLAN:
                self._logger.log(Severity.ERROR, "Serialization assertion magicTagRead failed")
                return None
            return ICudaEngine(profiles=payload[len(PLAN)])

    class IOptimizationProfile:
        def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
            self._shapes = shapes

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content + b"+"

    class IBuilderConfig:
        def __init__(self) -> None:
            self._profiles: list[Any] = []
            self._flags = {FLAGS_TF32}
            self._limits: dict[Any, int] = {}
            self._timing_cache: ITimingCache | None = None

        def clear_flag(self, flag: int) -> None:
            self._flags.discard(flag)

        def set_flag(self, flag: int) -> None:
            self._flags.add(flag)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._limits[pool] = size

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, content: bytes) -> ITimingCache:
            return ITimingCache(content)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            if cache._content.startswith(b"foreign"):
                return False
            self._timing_cache = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._timing_cache

    class INetworkDefinition:
        pass

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            pass

        def parse_from_file(self, path: str) -> bool:
            return True

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def create_network(self, flags: int) -> INetworkDefinition:
            assert flags == 1 << 1, "the network is not strongly typed"
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
            if trt.__dict__.get("fail_with"):
                self._logger.log(Severity.ERROR, trt.__dict__["fail_with"])
                return None
            trt.built.append(config)
            return PLAN + bytes([len(config._profiles)])

    trt.__dict__.update(
        ILogger=ILogger,
        IProgressMonitor=IProgressMonitor,
        IExecutionContext=IExecutionContext,
        ICudaEngine=ICudaEngine,
        IRuntimeConfig=IRuntimeConfig,
        CudaGraphStrategy=types.SimpleNamespace(DISABLED="disabled", WHOLE_GRAPH_CAPTURE="whole graph"),
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        Runtime=Runtime,
        IOptimizationProfile=IOptimizationProfile,
        ITimingCache=ITimingCache,
        IBuilderConfig=IBuilderConfig,
        INetworkDefinition=INetworkDefinition,
        OnnxParser=OnnxParser,
        Builder=Builder,
        BuilderFlag=types.SimpleNamespace(TF32=FLAGS_TF32, VERSION_COMPATIBLE=12),
        NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
        MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
        TilingOptimizationLevel=types.SimpleNamespace(NONE=0, FAST=1, MODERATE=2, FULL=3),
        HardwareCompatibilityLevel=types.SimpleNamespace(NONE=0, AMPERE_PLUS=1, SAME_COMPUTE_CAPABILITY=2),
    )
    return trt
