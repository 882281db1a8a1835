"""What every backend is, and a fake one for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..cuda_array import DeviceArray

Images = npt.NDArray[np.uint8]
Confidence = npt.NDArray[np.uint8]


@runtime_checkable
class Backend(Protocol):
    """The network, ready to run.

    Attributes:
        name: ``openvino``, ``onnxruntime``, ``tensorrt``, ``rtx`` or ``fake``.
        device: where it runs, as the user would name it: ``cpu``, ``cuda:0``.
        input_size: the side of its square input, in pixels.
        description: one line with library, version and device, for people.
        concurrency: how many threads should call ``infer`` at once for the highest rate.
    """

    name: str
    device: str
    input_size: int
    description: str
    concurrency: int

    def infer(self, images: Images) -> Confidence:
        """Run the network.

        Args:
            images: uint8 [N, S, S, 3], RGB, S = ``input_size``; N of at least 1.

        Returns:
            The confidence maps, uint8 [N, S, S]: 255 p, truncated.

        Raises:
            DeviceError: the library or the device failed.
        """
        ...

    def close(self) -> None:
        """Give back what it holds. It can't be used afterwards."""
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that also takes images where they are: on its GPU."""

    def infer_device(self, images: object, stream: object = None, out: DeviceArray | None = None) -> DeviceArray:
        """Run the network in the order of the caller's stream; see :meth:`seseg_trt.backends.tensorrt.TensorRTBackend.infer_device`."""
        ...


class FakeBackend:
    """A backend without a network, for tests of code that uses seseg_trt: the map is the image's mean channel.

    It is exact and cheap, and every pixel depends on its input, so that mixed-up images are noticed.
    """

    def __init__(self, input_size: int = 256) -> None:
        self.name = "fake"
        self.device = "cpu"
        self.input_size = input_size
        self.description = "fake backend (mean of the channels)"
        self.concurrency = 1

    def infer(self, images: Images) -> Confidence:
        """Return the mean of the channels, truncated: uint8 [N, S, S]."""
        maps: Confidence = (images.astype(np.uint16).sum(axis=-1) // 3).astype(np.uint8)
        return maps

    def close(self) -> None:
        """Do nothing: it holds nothing."""
