"""Describe and build the network: a U-Net on an SE-ResNet encoder, as in segmentation-models 0.2.0 and image-classifiers 0.2.0.

:func:`plan_layers` describes the network as plain data. The Keras model, the number of parameters and the check of a
checkpoint's architecture are all derived from that description.

Sources: Hu et al., "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507 (the SE block); Ronneberger et
al., "U-Net", https://arxiv.org/abs/1505.04597 (the decoder). The stride of a bottleneck is in its first 1x1
convolution, as in the Caffe models that the published ImageNet weights come from.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

from seseg_trt.errors import UsageError

ENCODER_EPSILON = 9.999999747378752e-06  # 1e-5 rounded to float32, as the converter of the Caffe weights wrote it
DECODER_EPSILON = 1e-3
DOWNSAMPLING = 32
WIDENING = 4

Kind = Literal[
    "InputLayer",
    "ZeroPadding2D",
    "Conv2D",
    "BatchNormalization",
    "Activation",
    "MaxPooling2D",
    "Squeeze",
    "Multiply",
    "Add",
    "UpSampling2D",
    "Concatenate",
]


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """The sizes of a network of this family.

    Attributes:
        repetitions: the number of bottlenecks in each of the encoder's four stages, 1..128.
        encoder_filters: the channels of the stem, 1..1024; the output of stage i (from 0) has ``4 * encoder_filters * 2**i``.
        decoder_filters: the channels of each of the five decoder stages, 1..4096.
        se_reduction: an SE block reduces C channels to ``C // se_reduction``.
        input_size: the side of the square input, in pixels; a multiple of 32 from 32 to 4096.

    Raises:
        UsageError: a size is out of its range.
    """

    repetitions: tuple[int, ...] = (3, 8, 36, 3)
    encoder_filters: int = 64
    decoder_filters: tuple[int, ...] = (256, 128, 64, 32, 16)
    se_reduction: int = 16
    input_size: int = 256

    def __post_init__(self) -> None:
        if len(self.repetitions) != 4 or not all(1 <= r <= 128 for r in self.repetitions):
            raise UsageError(f"repetitions {self.repetitions} are not four numbers of 1 to 128")
        if len(self.decoder_filters) != 5 or not all(1 <= f <= 4096 for f in self.decoder_filters):
            raise UsageError(f"decoder filters {self.decoder_filters} are not five numbers of 1 to 4096")
        if not 1 <= self.encoder_filters <= 1024:
            raise UsageError(f"{self.encoder_filters} encoder filters are not within 1 to 1024")
        if not 1 <= self.se_reduction <= WIDENING * self.encoder_filters:
            raise UsageError(f"an SE reduction of {self.se_reduction} leaves no channel")
        if not 32 <= self.input_size <= 4096 or self.input_size % DOWNSAMPLING:
            raise UsageError(f"an input of {self.input_size} pixels is not a multiple of {DOWNSAMPLING} from 32 to 4096")

    @classmethod
    def from_json(cls, sizes: dict[str, Any]) -> NetworkSpec:
        """Make a spec of the result of ``dataclasses.asdict`` after JSON, which has turned its tuples into lists."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in sizes.items()}
        return cls(**fields)

    @property
    def name(self) -> str:
        """The network's name: that of its preset (``u-seresnet152``), or its depth and width (``u-seresnet20x12``)."""
        for name, spec in PRESETS.items():
            if dataclasses.replace(spec, input_size=self.input_size) == self:
                return f"u-{name}"
        depth = 3 * sum(self.repetitions) + 2  # as published: 3 convolutions a bottleneck, the stem and the classifier
        return f"u-seresnet{depth}x{self.encoder_filters}"


PRESETS: dict[str, NetworkSpec] = {
    "seresnet50": NetworkSpec(repetitions=(3, 4, 6, 3)),
    "seresnet101": NetworkSpec(repetitions=(3, 4, 23, 3)),
    "seresnet152": NetworkSpec(),
    "seresnet20": NetworkSpec(repetitions=(1, 2, 2, 1), encoder_filters=8, decoder_filters=(16, 14, 12, 10, 8)),
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the network. Fields that its kind does not use keep their defaults.

    Attributes:
        kind: its Keras class, or ``Squeeze``: the mean over height and width.
        inputs: the names of the layers whose outputs it takes.
        channels, in_channels: of its output and of its input (of all inputs together for ``Concatenate``).
        kernel, stride: of a convolution or a pooling, in pixels.
        same: whether a convolution has Keras's "same" padding rather than none.
        padding: the pixels that a ``ZeroPadding2D`` adds on each side.
    """

    kind: Kind
    name: str
    inputs: tuple[str, ...]
    channels: int
    in_channels: int = 0
    kernel: int = 1
    stride: int = 1
    same: bool = False
    bias: bool = False
    epsilon: float = 0.0
    activation: str = ""
    padding: int = 0

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its weights by name, in Keras's order."""
        if self.kind == "Conv2D":
            kernel = {"kernel": (self.kernel, self.kernel, self.in_channels, self.channels)}
            return {**kernel, "bias": (self.channels,)} if self.bias else dict(kernel)
        if self.kind == "BatchNormalization":
            return dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (self.channels,))
        return {}


class _Plan:
    """A builder of the layer description; most methods add layers and return the name of the last."""

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}

    def add(self, kind: Kind, name: str, *inputs: str, channels: int = 0, **fields: Any) -> str:
        in_channels = sum(self.layers[i].channels for i in inputs) if kind == "Concatenate" else 0
        if inputs and not in_channels:
            in_channels = self.layers[inputs[0]].channels
        self.layers[name] = Layer(kind, name, inputs, channels or in_channels, in_channels, **fields)
        return name

    def conv(self, name: str, x: str, channels: int, kernel: int = 1, **fields: Any) -> str:
        return self.add("Conv2D", name, x, channels=channels, kernel=kernel, **fields)

    def bn(self, name: str, x: str, epsilon: float = ENCODER_EPSILON) -> str:
        return self.add("BatchNormalization", name, x, epsilon=epsilon)

    def activation(self, name: str, x: str, function: str = "relu") -> str:
        return self.add("Activation", name, x, activation=function)

    def bottleneck(self, prefix: str, x: str, filters: int, stride: int, reduction: int) -> str:
        shortcut, narrow, wide = x, filters, WIDENING * filters
        x = self.conv(f"{prefix}_conv1", x, narrow, stride=stride)
        x = self.activation(f"{prefix}_relu1", self.bn(f"{prefix}_bn1", x))
        x = self.add("ZeroPadding2D", f"{prefix}_pad2", x, padding=1)
        x = self.conv(f"{prefix}_conv2", x, narrow, 3)
        x = self.activation(f"{prefix}_relu2", self.bn(f"{prefix}_bn2", x))
        x = self.bn(f"{prefix}_bn3", self.conv(f"{prefix}_conv3", x, wide))
        if stride != 1 or self.layers[shortcut].channels != wide:
            shortcut = self.conv(f"{prefix}_shortcut_conv", shortcut, wide, stride=stride)
            shortcut = self.bn(f"{prefix}_shortcut_bn", shortcut)
        gate = self.add("Squeeze", f"{prefix}_se_squeeze", x)
        gate = self.activation(f"{prefix}_se_relu", self.conv(f"{prefix}_se_conv1", gate, wide // reduction, bias=True))
        gate = self.activation(f"{prefix}_se_sigmoid", self.conv(f"{prefix}_se_conv2", gate, wide, bias=True), "sigmoid")
        x = self.add("Multiply", f"{prefix}_se_multiply", x, gate)
        return self.activation(f"{prefix}_relu", self.add("Add", f"{prefix}_add", x, shortcut))

    def encoder(self, spec: NetworkSpec) -> list[str]:
        """Add the encoder; return the layers whose outputs the decoder takes, the finest first: the stem, then each stage."""
        x = self.add("InputLayer", "input", channels=3)
        x = self.add("ZeroPadding2D", "stem_pad", x, padding=3)
        x = self.conv("stem_conv", x, spec.encoder_filters, 7, stride=2)
        x = self.activation("stem_relu", self.bn("stem_bn", x))
        features = [x]
        x = self.add("ZeroPadding2D", "stem_pool_pad", x, padding=1)
        x = self.add("MaxPooling2D", "stem_pool", x, kernel=3, stride=2)
        for stage, repetitions in enumerate(spec.repetitions):
            for unit in range(repetitions):
                stride = 2 if stage > 0 and unit == 0 else 1
                filters = spec.encoder_filters * 2**stage
                x = self.bottleneck(f"stage{stage + 1}_unit{unit + 1}", x, filters, stride, spec.se_reduction)
            features.append(x)
        return features

    def decoder(self, spec: NetworkSpec, features: list[str]) -> None:
        x = features.pop()
        for stage, filters in enumerate(spec.decoder_filters):
            prefix = f"decoder_stage{stage}"
            x = self.add("UpSampling2D", f"{prefix}_upsample", x)
            if features:
                x = self.add("Concatenate", f"{prefix}_concat", x, features.pop())
            for half in (1, 2):
                x = self.conv(f"{prefix}_conv{half}", x, filters, 3, same=True)
                x = self.activation(f"{prefix}_relu{half}", self.bn(f"{prefix}_bn{half}", x, DECODER_EPSILON))
        x = self.conv("final_conv", x, 1, 3, same=True, bias=True)
        self.activation("sigmoid", x, "sigmoid")


def plan_layers(spec: NetworkSpec) -> dict[str, Layer]:
    """Describe a network: its layers by name, in topological order; the last is the output.

    Decoder layers have the names that segmentation-models gives them. Encoder layers, which have numbers there, are
    named after their position: ``stage3_unit7_se_conv1``.
    """
    plan = _Plan()
    plan.decoder(spec, plan.encoder(spec))
    return plan.layers


def is_encoder(name: str) -> bool:
    """Return whether the layer of this name belongs to the encoder."""
    return re.match(r"decoder_|final_conv$|sigmoid$", name) is None


def parameter_count(spec: NetworkSpec) -> int:
    """Return the number of parameters, including BatchNorm's moving statistics."""
    return sum(math.prod(shape) for layer in plan_layers(spec).values() for shape in layer.weights.values())


def fold_layers(layers: dict[str, Layer]) -> dict[str, Layer]:
    """Return the description without BatchNorms: each is folded into the convolution before it, which gets a bias."""
    folded: dict[str, Layer] = {}
    renamed: dict[str, str] = {}
    for layer in layers.values():
        inputs = tuple(renamed.get(i, i) for i in layer.inputs)
        if layer.kind == "BatchNormalization":
            renamed[layer.name] = inputs[0]
            folded[inputs[0]] = dataclasses.replace(folded[inputs[0]], bias=True)
        else:
            folded[layer.name] = dataclasses.replace(layer, inputs=inputs)
    return folded


def build_model(layers: dict[str, Layer], input_size: int, name: str) -> Any:
    """Build the Keras model of a description, with freshly initialised weights.

    Args:
        layers: as :func:`plan_layers` returns them.
        input_size: S, the side of the input, in pixels.
        name: the model's name.

    Returns:
        A ``keras.Model`` from float32 [N, S, S, 3], values 0..255, to float32 [N, S, S, 1], the confidence 0..1.
    """
    import keras

    tensors: dict[str, Any] = {}
    for layer in layers.values():
        if layer.kind == "InputLayer":
            tensors[layer.name] = keras.Input((input_size, input_size, layer.channels), name=layer.name)
            continue
        inputs = [tensors[i] for i in layer.inputs]
        tensors[layer.name] = _keras_layer(layer)(inputs[0] if len(inputs) == 1 else inputs)
    return keras.Model(tensors["input"], tensors[next(reversed(layers))], name=name)


def _keras_layer(layer: Layer) -> Any:
    from keras import layers as kl

    name = layer.name
    match layer.kind:
        case "ZeroPadding2D":
            return kl.ZeroPadding2D(layer.padding, name=name)
        case "Conv2D":
            return kl.Conv2D(
                layer.channels,
                layer.kernel,
                strides=layer.stride,
                padding="same" if layer.same else "valid",
                use_bias=layer.bias,
                kernel_initializer="he_uniform" if is_encoder(name) else "glorot_uniform",
                name=name,
            )
        case "BatchNormalization":
            return kl.BatchNormalization(epsilon=layer.epsilon, momentum=0.99, name=name)
        case "Activation":
            return kl.Activation(layer.activation, name=name)
        case "MaxPooling2D":
            return kl.MaxPooling2D(layer.kernel, strides=layer.stride, name=name)
        case "Squeeze":
            return kl.GlobalAveragePooling2D(keepdims=True, name=name)
        case "Multiply":
            return kl.Multiply(name=name)
        case "Add":
            return kl.Add(name=name)
        case "UpSampling2D":
            return kl.UpSampling2D(2, interpolation="nearest", name=name)
        case "Concatenate":
            return kl.Concatenate(name=name)
    raise AssertionError(f"no Keras layer for {layer}")


def build_unet(spec: NetworkSpec) -> Any:
    """Build a network with freshly initialised weights.

    Returns:
        A ``keras.Model`` from float32 [N, S, S, 3], RGB, 0..255 without normalisation, to float32 [N, S, S, 1], the
        confidence 0..1; S is ``spec.input_size``.
    """
    return build_model(plan_layers(spec), spec.input_size, spec.name)


def spec_of(model: Any) -> NetworkSpec:
    """Return the sizes of a model of :func:`build_unet`, which may have been saved and loaded since.

    Raises:
        UsageError: the model is another network.
    """
    layers = {layer.name: layer for layer in model.layers}
    units = [re.fullmatch(r"stage([1-4])_unit\d+_conv2", name) for name in layers]
    try:
        squeezed = int(layers["stage1_unit1_se_conv1"].filters)
        wide = int(layers["stage1_unit1_conv3"].filters)
        return NetworkSpec(
            repetitions=tuple(sum(1 for u in units if u and u[1] == stage) for stage in "1234"),
            encoder_filters=int(layers["stem_conv"].filters),
            decoder_filters=tuple(int(layers[f"decoder_stage{i}_conv1"].filters) for i in range(5)),
            se_reduction=reduction_of(wide, squeezed),
            input_size=int(model.input_shape[1]),
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"the model {getattr(model, 'name', model)!r} is not one that build_unet made") from error


def reduction_of(wide: int, squeezed: int) -> int:
    """Return an SE reduction that turns ``wide`` channels into ``squeezed``: the default, 16, if it does."""
    usual = NetworkSpec().se_reduction
    return usual if wide // usual == squeezed else wide // max(squeezed, 1)


def encoder_layers(model: Any) -> list[Any]:
    """Return the encoder's Keras layers, in graph order."""
    return [layer for layer in model.layers if is_encoder(layer.name)]


def freeze_encoder(model: Any, batchnorm: bool = False) -> None:
    """Freeze the encoder of a model, in place.

    Args:
        model: a Keras model of :func:`build_unet`.
        batchnorm: freeze its BatchNorms as well. If False, they stay trainable and use each batch's statistics in
            training, as with ``encoder_freeze`` of segmentation-models.
    """
    for layer in encoder_layers(model):
        layer.trainable = not batchnorm and type(layer).__name__ == "BatchNormalization"
