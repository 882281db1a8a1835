"""Export the Keras model as an ONNX graph that every backend runs, and compare the two before the graph is written.

The graph's input is ``image``, uint8 [N, S, S, 3] (RGB). Its output is ``confidence``, uint8 [N, S, S]: 255 p, truncated.
The confidence p itself is the tensor ``p``, float32 [N, S, S]; it can be made a second output.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seseg_trt.errors import ModelError
from seseg_trt.models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME
from seseg_trt.storage.atomic import atomic_write

from .compare import MIN_IOU, MIN_SHARE, TOLERANCE, Agreement, Images, compare, procedural_images
from .graph import KERNEL_SUFFIX, OPSET, FoldedWeights, clean_graph
from .network import Layer, fold_layers, plan_layers, spec_of

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Exported:
    """The result of :func:`export_onnx`: the file, the number of its nodes, and its agreement with Keras."""

    path: Path
    nodes: int
    agreement: Agreement


def export_onnx(
    model: Any,
    path: str | Path,
    *,
    checkpoint_sha256: str,
    float_output: bool = False,
    check_images: Images | None = None,
) -> Exported:
    """Convert a model to ONNX, compare the two, and write the graph.

    Args:
        model: a Keras model of :func:`engine.network.build_unet`.
        path: the file to write; its folder is created if it is missing.
        checkpoint_sha256: the SHA-256 of the file that the weights come from, or ``random:SEED``; for the graph's
            metadata.
        float_output: make ``p`` a graph output as well.
        check_images: images to compare on, uint8 [N, S, S, 3]; by default :func:`procedural_images`.

    Raises:
        ModelError: the graph disagrees with the model (the message has the measured numbers), or the file can't be
            written. In both cases nothing is written.
    """
    spec = spec_of(model)
    images = procedural_images(spec.input_size) if check_images is None else check_images
    graph = make_graph(model, float_output=float_output)
    _describe(graph, checkpoint_sha256, spec.name, spec.input_size)
    agreement = compare(graph, model, images)
    log.info("graph against Keras: %s", agreement)
    if not agreement.good:
        raise ModelError(
            f"the graph disagrees with Keras ({agreement}), and was not written",
            f"{MIN_SHARE:.1%} of the pixels must be within {TOLERANCE:g} and the masks' IoU at least {MIN_IOU}; this is a bug in "
            "a library or in this program: please report it with the versions of TensorFlow, tf2onnx and ONNX Runtime",
        )
    _write(Path(path), graph.SerializeToString(deterministic=True))
    return Exported(Path(path), len(graph.graph.node), agreement)


def make_graph(model: Any, *, float_output: bool = False) -> Any:
    """Convert a model to an ``onnx.ModelProto``, without metadata.

    Every BatchNorm of this network follows a convolution and is folded into it, in float64.

    The kernels are inputs of the converted function, and their values are inserted after the conversion: as constants, their 0.3 GB
    would take 15 GB of memory in the passes of TensorFlow and tf2onnx.

    Args:
        model: a Keras model of :func:`engine.network.build_unet`.
        float_output: make ``p`` a graph output as well.
    """
    import tensorflow as tf
    import tf2onnx

    spec = spec_of(model)
    layers = fold_layers(plan_layers(spec))
    weights = _folded_weights(model)
    size = spec.input_size

    def network(image: Any, *kernels: Any) -> dict[str, Any]:
        kernel_of = dict(zip(weights, kernels, strict=True))
        tensors: dict[str, Any] = {}
        for layer in layers.values():
            with tf.name_scope(layer.name):
                inputs = [tensors[i] for i in layer.inputs] or [tf.cast(image, tf.float32)]
                tensors[layer.name] = _tensorflow_layer(layer, inputs, kernel_of.get(layer.name))
        p = tf.identity(tf.squeeze(tensors[next(reversed(layers))], -1), name=FLOAT_OUTPUT_NAME)
        with tf.name_scope("output"):
            # A cast truncates by ONNX's definition; the Floor gives the same in a runtime whose cast rounds.
            confidence = tf.cast(tf.floor(p * 255.0), tf.uint8)
        return {OUTPUT_NAME: confidence, FLOAT_OUTPUT_NAME: p}

    signature = [tf.TensorSpec([None, size, size, 3], tf.uint8, name=INPUT_NAME)]
    for name, (kernel, _) in weights.items():
        signature.append(tf.TensorSpec(kernel.shape, tf.float32, name=f"{name}{KERNEL_SUFFIX}"))
    function = tf.function(network, input_signature=signature, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    return clean_graph(converted, weights, size, float_output)


def _tensorflow_layer(layer: Layer, inputs: list[Any], kernel: Any) -> Any:
    """Apply one layer in TensorFlow's own operations, which tf2onnx converts to fewer nodes than Keras's layers."""
    import tensorflow as tf

    x = inputs[0]
    match layer.kind:
        case "InputLayer":
            return x
        case "ZeroPadding2D":
            side = [layer.padding, layer.padding]
            return tf.pad(x, [[0, 0], side, side, [0, 0]])
        case "Conv2D":
            return tf.nn.conv2d(x, kernel, layer.stride, "SAME" if layer.same else "VALID")  # the bias is inserted later
        case "Activation":
            return tf.nn.relu(x) if layer.activation == "relu" else tf.sigmoid(x)
        case "MaxPooling2D":
            return tf.nn.max_pool2d(x, layer.kernel, layer.stride, "VALID")
        case "Squeeze":
            return tf.reduce_mean(x, [1, 2], keepdims=True)
        case "Multiply":
            return x * inputs[1]
        case "Add":
            return x + inputs[1]
        case "UpSampling2D":
            # Output pixel k copies input pixel k // 2: `asymmetric` and `floor` in ONNX, which TensorRT's parsers
            # accept. Half-pixel centres give the same pixels at a factor of 2, but in a form that the parsers refuse.
            size = [2 * int(x.shape[1]), 2 * int(x.shape[2])]
            return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size, half_pixel_centers=False)
        case "Concatenate":
            return tf.concat(inputs, -1)
    raise AssertionError(f"no operation for {layer}")


def _folded_weights(model: Any) -> FoldedWeights:
    """Return kernel and bias of every convolution, with the BatchNorm that follows it folded in.

    With s = gamma / sqrt(variance + epsilon), the folded kernel is kernel * s and the folded bias is
    beta + (bias - mean) * s. Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877, section 3.2.
    """
    layers = plan_layers(spec_of(model))
    folded: dict[str, list[npt.NDArray[np.float64]]] = {}
    for layer in layers.values():
        if not layer.weights:
            continue
        values = [np.asarray(w, np.float64) for w in model.get_layer(layer.name).get_weights()]
        if layer.kind == "Conv2D":
            folded[layer.name] = values if layer.bias else [*values, np.zeros(layer.channels)]
        else:
            gamma, beta, mean, variance = values
            kernel, bias = folded[layer.inputs[0]]
            scale = gamma / np.sqrt(variance + layer.epsilon)
            folded[layer.inputs[0]] = [kernel * scale, beta + (bias - mean) * scale]
    return {name: (kernel.astype(np.float32), bias.astype(np.float32)) for name, (kernel, bias) in folded.items()}


def _describe(graph: Any, checkpoint_sha256: str, network: str, input_size: int) -> None:
    import keras
    import onnx
    import tensorflow as tf
    import tf2onnx

    versions = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tf2onnx": tf2onnx.__version__,
        "onnx": onnx.__version__,
        "opset": str(OPSET),
    }
    properties = {
        "seseg.network": network,
        "seseg.input_size": str(input_size),
        "seseg.resample": "nearest",
        "seseg.precision": "fp32",
        "seseg.checkpoint_sha256": checkpoint_sha256,
        "seseg.versions": json.dumps(versions, sort_keys=True),
    }
    onnx.helper.set_model_props(graph, properties)


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically: it is there in full or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as file:
            file.write(content)
    except OSError as error:
        raise ModelError(f"{path} can't be written: {error.strerror or error}", "give --out a folder that can be written") from error
