# mypy: ignore-errors
"""Run the graph in PyTorch's own operations (eager, channels-last; FP32 on the CPU, FP16 on a GPU) and Pillow, one image at a time."""

import platform
import time

import numpy as np
import pillow_loop
from protocol import serve, timed

network = None


class Graph:
    """An ONNX graph of this network that runs in PyTorch, one operation for each node."""

    def __init__(self, path, device, dtype):
        import onnx
        import torch

        model = onnx.load(path)
        self.torch, self.device, self.dtype = torch, device, dtype
        self.nodes = [(n.op_type, list(n.input), list(n.output), self._attributes(onnx, n)) for n in model.graph.node]
        self.constants = {}
        for initializer in model.graph.initializer:
            value = torch.from_numpy(np.array(onnx.numpy_helper.to_array(initializer)))
            if value.is_floating_point():
                value = value.to(device, dtype)
            if value.dim() == 4:
                value = value.to(memory_format=torch.channels_last)
            self.constants[initializer.name] = value

    @staticmethod
    def _attributes(onnx, node):
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def __call__(self, images):
        """Run the network: images, uint8 [N, S, S, 3], to confidence maps, uint8 [N, S, S]."""
        with self.torch.inference_mode():
            values = {**self.constants, "image": images}
            for kind, inputs, outputs, attributes in self.nodes:
                values[outputs[0]] = getattr(self, kind)(*(values.get(name) for name in inputs), **attributes)
            return values["confidence"]

    def Cast(self, x, to):
        return x.to(self.torch.uint8 if to == 2 else self.dtype)

    def Transpose(self, x, perm):
        return x.permute(*perm)  # NHWC becomes NCHW in channels-last order, without a copy

    def Conv(self, x, weight, bias=None, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1, **_):
        functional = self.torch.nn.functional
        pads, strides, dilations = list(pads), list(strides), list(dilations)
        if pads[:2] != pads[2:]:
            x, pads = functional.pad(x, (pads[1], pads[3], pads[0], pads[2])), [0, 0]
        return functional.conv2d(x, weight, bias, strides, pads[:2], dilations, group)

    def MaxPool(self, x, kernel_shape, strides, pads=(0, 0, 0, 0), **_):
        return self.torch.nn.functional.max_pool2d(x, kernel_shape, strides, pads[:2])

    def GlobalAveragePool(self, x):
        return x.mean((2, 3), keepdim=True)

    def Relu(self, x):
        return self.torch.relu(x)

    def Sigmoid(self, x):
        return self.torch.sigmoid(x)

    def Mul(self, x, y):
        return x * y

    def Add(self, x, y):
        return x + y

    def Concat(self, *parts, axis):
        return self.torch.cat(parts, axis)

    def Resize(self, x, _region, scales, *_sizes, **_):
        return self.torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")

    def Squeeze(self, x, axes):
        return x.squeeze(int(axes[0]))

    def Floor(self, x):
        return x.floor()


def predict(image):
    return network(network.torch.from_numpy(image).to(network.device)).cpu().numpy()


def load(model_path, device="cpu", **_):
    global network
    start = time.perf_counter()
    import PIL
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch has no CUDA device")
    network = Graph(model_path, device, torch.float16 if device == "cuda" else torch.float32)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pillow": PIL.__version__}
    return {"seconds": time.perf_counter() - start, "versions": versions}


def engine(count, batch=1, **_):
    torch = network.torch
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, 256, 256, 3), np.uint8)).to(network.device)
    network(images)
    wait = torch.cuda.synchronize if network.device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    timed(lambda: network(images), count)
    wait()
    return {"seconds": time.perf_counter() - start, "count": count * batch}


def files(inputs, output_dir, output, threshold=None):
    return pillow_loop.run_folder(predict, inputs, output_dir, output, threshold)


if __name__ == "__main__":
    serve({"load": load, "engine": engine, "files": files})
