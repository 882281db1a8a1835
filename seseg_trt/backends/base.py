"""The backend interface, and a fake backend for tests."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError
from ..models.artifact import FLOAT_OUTPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from ..cuda.array import DeviceArray

Images = npt.NDArray[np.uint8]
Confidence = npt.NDArray[np.uint8]


@runtime_checkable
class Backend(Protocol):
    """The network, loaded by an inference library and ready to run.

    Attributes:
        name: ``openvino``, ``onnxruntime``, ``tensorrt``, ``rtx`` or ``fake``.
        device: the device's name: ``cpu``, ``cuda:0``.
        input_size: S, the side of the square input, in pixels.
        description: one human-readable line with library, version and device.
        concurrency: how many threads should call ``infer`` at once for the highest throughput.
    """

    name: str
    device: str
    input_size: int
    description: str
    concurrency: int

    def infer(self, images: Images) -> Confidence:
        """Run the network.

        Args:
            images: uint8 [N, S, S, 3], RGB, with S = ``input_size`` and N >= 1.

        Returns:
            The confidence maps, uint8 [N, S, S]: floor(255 p) for a confidence p of 0..1.

        Raises:
            DeviceError: the library or the device failed.
        """

    def close(self) -> None:
        """Release the network and its device. The backend can't be used afterwards."""


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that also takes images in the memory of its GPU."""

    def infer_device(self, images: object, stream: object = None, out: DeviceArray | None = None) -> DeviceArray:
        """Run the network in the order of a stream; see :meth:`seseg_trt.backends.tensorrt.TensorRTBackend.infer_device`."""


class GraphBackend(abc.ABC):
    """The outputs of a backend that runs an ONNX graph.

    Args:
        float_output: make ``p`` available through :meth:`infer_with_float`.
    """

    def __init__(self, float_output: bool) -> None:
        self._float_output = float_output

    def infer(self, images: Images) -> Confidence:
        """Run the network: uint8 [N, S, S, 3] to uint8 [N, S, S]. See :class:`Backend`."""
        maps: Confidence = self._outputs([OUTPUT_NAME], images)[0]
        return maps

    def infer_with_float(self, images: Images) -> tuple[Confidence, npt.NDArray[np.float32]]:
        """Run the network; return its maps, uint8 [N, S, S], and the confidence before truncation, float32 [N, S, S] in 0..1.

        Raises:
            DeviceError: the backend was created without ``float_output``, or the library failed.
        """
        if not self._float_output:
            raise DeviceError("this backend was made without its float output", "make it with float_output=True")
        maps, floats = self._outputs([OUTPUT_NAME, FLOAT_OUTPUT_NAME], images)
        return maps, floats

    @abc.abstractmethod
    def _outputs(self, names: list[str], images: Images) -> list[Any]:
        """Run the network; return the graph's outputs of these names."""


class FakeBackend:
    """A backend without a network, for tests of code that uses seseg_trt. Its map is the mean of an image's channels.

    It is deterministic and cheap, and each output pixel depends on its input pixel, so tests notice swapped images.
    """

    def __init__(self, input_size: int = 256) -> None:
        self.name = "fake"
        self.device = "cpu"
        self.input_size = input_size
        self.description = "fake backend (mean of the channels)"
        self.concurrency = 1

    def infer(self, images: Images) -> Confidence:
        """Return the mean of the channels, rounded down: uint8 [N, S, S]."""
        maps: Confidence = (images.astype(np.uint16).sum(axis=-1) // 3).astype(np.uint8)
        return maps

    def close(self) -> None:
        """Do nothing."""
