"""Check that the architecture in a checkpoint is this network, and map the file's layer names to ours.

Two networks can have weights of the same shapes and still give different masks: another stride, padding, epsilon,
activation or connection is enough. So the JSON that Keras saved is walked backwards from the output, in parallel with
:func:`engine.network.plan_layers`, and every attribute that can change a result is compared. Layer names are ignored,
because Keras numbers layers with a counter that runs through the whole process.

In the file, the squeeze of each SE block is a ``Lambda`` layer: Python bytecode, which is never run or decoded. A
Lambda at the place of a squeeze is accepted as the squeeze; any other Lambda is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

from seseg_trt.errors import CheckpointError, UsageError

from .network import WIDENING, Layer, NetworkSpec, plan_layers, reduction_of

OTHER_NETWORK = (
    "only U-Nets of segmentation-models 0.2.0 on its SE-ResNet encoders can be read: Unet('seresnet152', ...), "
    "or one of another width or depth"
)
# Settings of a layer that do not change a prediction.
SILENT = frozenset(
    {
        "name",
        "trainable",
        "dtype",
        "batch_input_shape",
        "batch_shape",
        "sparse",
        "ragged",
        "momentum",
        "noise_shape",
        "seed",
    }
    | {f"{w}_{k}" for w in ("kernel", "bias", "beta", "gamma") for k in ("initializer", "regularizer", "constraint")}
    | {"moving_mean_initializer", "moving_variance_initializer", "activity_regularizer"}
)
EPSILON_TOLERANCE = 1e-12
MAX_NAME = 512
MAX_CONVOLUTIONS = 2600  # in the deepest network that NetworkSpec allows


@dataclasses.dataclass(frozen=True)
class ConvSignature:
    """The sizes of a convolution that identify its network; ``in_channels`` is 0 if unknown."""

    kernel: int
    channels: int
    bias: bool
    in_channels: int = 0


def keras2_order(layers: dict[str, Layer]) -> list[Layer]:
    """Return the layers in the order in which Keras 2.2.4 lists and saves them, the farthest from the output first.

    Layers are sorted by depth (the length of the longest path to the output). Layers of equal depth are in the order
    in which a depth-first search from the output first reaches them. Source: ``_map_graph_network`` in
    ``keras/engine/network.py`` of Keras 2.2.4.
    """
    names = list(layers)
    depth = dict.fromkeys(names, 0)
    for name in reversed(names):
        for source in layers[name].inputs:
            depth[source] = max(depth[source], depth[name] + 1)
    met: dict[str, int] = {}
    stack = [names[-1]]
    while stack:
        name = stack.pop()
        if name not in met:
            met[name] = len(met)
            stack += reversed(layers[name].inputs)
    return [layers[n] for n in sorted(names, key=lambda n: (-depth[n], met[n]))]


def derive_spec(convolutions: Sequence[ConvSignature], input_size: int = 256) -> NetworkSpec:
    """Derive the network's sizes from its convolutions.

    If one convolution is wrong or missing, the network that agrees with most of the others is returned, so that the
    caller can name the wrong one.

    Args:
        convolutions: in Keras's order (:func:`keras2_order`).
        input_size: the side of the network's input, in pixels.

    Raises:
        CheckpointError: no network of this family has such convolutions.
    """
    foreign = CheckpointError(f"its {len(convolutions)} convolutions are not those of this network", OTHER_NETWORK)
    last = max((i for i, c in enumerate(convolutions) if c.kernel == 3 and c.bias), default=0)
    decoder = convolutions[max(0, last - 10) : last]  # two in each of the five stages
    encoder = convolutions[: max(0, last - 10)]
    if len(encoder) < 2 or len(convolutions) > MAX_CONVOLUTIONS:
        raise foreign
    candidates = {
        spec
        for filters in (encoder[0].channels, encoder[1].channels)
        for decoder_filters in (decoder[0::2], decoder[1::2])
        for spec in _similar_specs(encoder, filters, [c.channels for c in decoder_filters], input_size)
    }
    agreement, spec = max(
        ((_agreement(spec, convolutions), spec) for spec in candidates),
        key=lambda c: (c[0], c[1].repetitions, c[1].decoder_filters, c[1].se_reduction),
        default=(0, NetworkSpec()),
    )
    if 2 * agreement < len(convolutions):
        raise foreign
    return spec


def _similar_specs(encoder: Sequence[ConvSignature], filters: int, decoder_filters: list[int], input_size: int) -> Iterator[NetworkSpec]:
    """Yield the networks that would match these convolutions if one of them were wrong or missing."""
    middle = Counter(c.channels for c in encoder if c.kernel == 3)
    repetitions = [middle[filters * 2**stage] for stage in range(4)]
    wide = WIDENING * filters
    squeezed = next((c.channels for c in encoder if c.bias and c.kernel == 1), 0)
    for reduction in {reduction_of(wide, squeezed), NetworkSpec().se_reduction}:
        for one_more in range(5):
            guess = tuple(r + (stage == one_more) for stage, r in enumerate(repetitions))
            with contextlib.suppress(UsageError):
                yield NetworkSpec(guess, filters, tuple(decoder_filters), reduction, input_size)


def _agreement(spec: NetworkSpec, convolutions: Sequence[ConvSignature]) -> int:
    """Return how many of the network's convolutions are found in order, minus the difference of the two counts."""
    planned = [layer for layer in keras2_order(plan_layers(spec)) if layer.kind == "Conv2D"]
    known = any(c.in_channels for c in convolutions)
    wanted = [ConvSignature(p.kernel, p.channels, p.bias, p.in_channels if known else 0) for p in planned]
    blocks = SequenceMatcher(None, wanted, list(convolutions), autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) - abs(len(wanted) - len(convolutions))


def spec_from_config(config: dict[str, Any]) -> NetworkSpec:
    """Return the sizes of the network that an architecture describes.

    Only the convolutions and the input are read; :func:`match` checks everything else.

    Args:
        config: the ``model_config`` that Keras saved.

    Raises:
        CheckpointError: the architecture is not of this family.
    """
    described = _described_layers(config)
    convolutions = []
    input_size = NetworkSpec().input_size
    for name, layer in described.items():
        settings = layer["config"]
        if layer["class_name"] == "Conv2D":
            kernel, filters = settings.get("kernel_size"), settings.get("filters")
            if not (isinstance(kernel, list) and len(kernel) == 2 and all(type(n) is int for n in [*kernel, filters])):
                raise CheckpointError(f"layer {name!r}: kernel_size {kernel!r:.60}, filters {filters!r:.60}", OTHER_NETWORK)
            convolutions.append(ConvSignature(kernel[0], filters, settings.get("use_bias") is True))
        elif layer["class_name"] == "InputLayer":
            input_size = _input_size(name, settings)
    return derive_spec(convolutions, input_size)


def _input_size(name: str, settings: dict[str, Any]) -> int:
    shape = settings.get("batch_input_shape", settings.get("batch_shape"))
    if shape == [None, None, None, 3]:
        return NetworkSpec().input_size
    if isinstance(shape, list) and len(shape) == 4 and shape[0] is None and shape[1] == shape[2] and shape[3] == 3:
        size = shape[1]
        if type(size) is int and 32 <= size <= 4096 and size % 32 == 0:
            return size
    wanted = "[None, None, None, 3] or a square of a multiple of 32 pixels"
    raise CheckpointError(f"layer {name!r} takes {shape!r:.80}, not {wanted}", OTHER_NETWORK)


def match(config: dict[str, Any], spec: NetworkSpec) -> dict[str, str]:
    """Match the layers of an architecture to those of a network.

    Args:
        config: the ``model_config`` that Keras saved.
        spec: the network to match.

    Returns:
        For each layer name of :func:`engine.network.plan_layers`, the name of that layer in the file.

    Raises:
        CheckpointError: something differs; the message names the layer and both values.
    """
    described = _described_layers(config)
    planned = plan_layers(spec)
    names = {next(reversed(planned)): _only(config["config"].get("output_layers"), "output")}
    places = {source: wanted for wanted, source in names.items()}
    for layer in reversed(planned.values()):
        name = names[layer.name]
        if name not in described:
            raise CheckpointError(f"layer {name!r} is used as an input but not described", OTHER_NETWORK)
        _check_layer(name, described[name], layer)
        sources = _inbound(name, described[name])
        if len(sources) != len(layer.inputs):
            raise CheckpointError(f"layer {name!r} has {len(sources)} inputs, the network's has {len(layer.inputs)}", OTHER_NETWORK)
        for source, wanted in zip(sources, layer.inputs, strict=True):
            if places.setdefault(source, wanted) != wanted:
                raise CheckpointError(f"layer {name!r} takes {source!r}, which already matches another layer", OTHER_NETWORK)
            if names.setdefault(wanted, source) != source:
                raise CheckpointError(f"layer {name!r} takes {source!r}, the network's takes {names[wanted]!r}", OTHER_NETWORK)
    extra = sorted(set(described) - set(names.values()))
    if extra:
        kind = described[extra[0]]["class_name"]
        raise CheckpointError(f"layer {extra[0]!r} ({kind}) is not part of the network", OTHER_NETWORK)
    if _only(config["config"].get("input_layers"), "input") != names["input"]:
        raise CheckpointError("the model's input is not the network's", OTHER_NETWORK)
    return names


def _described_layers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    inner = config.get("config")
    if config.get("class_name") not in ("Model", "Functional") or not isinstance(inner, dict):
        raise CheckpointError(f"the file holds a {config.get('class_name')!r:.60}, not a Keras Model", OTHER_NETWORK)
    layers = inner.get("layers")
    if not isinstance(layers, list) or not layers:
        raise CheckpointError("the architecture lists no layers", OTHER_NETWORK)
    described: dict[str, dict[str, Any]] = {}
    for layer in layers:
        good = isinstance(layer, dict) and isinstance(layer.get("config"), dict)
        if not good or not isinstance(layer.get("name"), str) or not isinstance(layer.get("class_name"), str):
            raise CheckpointError(f"layer {len(described)} of the architecture has an unknown form", OTHER_NETWORK)
        if max(len(layer["name"]), len(layer["class_name"])) > MAX_NAME:
            raise CheckpointError(f"layer {len(described)} of the architecture has a name of over {MAX_NAME} characters", OTHER_NETWORK)
        if layer["name"] in described:
            raise CheckpointError(f"the architecture describes layer {layer['name']!r:.100} twice", OTHER_NETWORK)
        described[layer["name"]] = layer
    return described


def _only(ends: Any, what: str) -> str:
    if not (isinstance(ends, list) and len(ends) == 1 and isinstance(ends[0], list) and len(ends[0]) == 3):
        raise CheckpointError(f"the model does not have one {what}", OTHER_NETWORK)
    if not isinstance(ends[0][0], str) or ends[0][1:] != [0, 0]:
        raise CheckpointError(f"the model's {what} {ends[0]!r:.100} is not a plain layer", OTHER_NETWORK)
    return ends[0][0]


def _inbound(name: str, described: dict[str, Any]) -> list[str]:
    nodes = described.get("inbound_nodes")
    if nodes == []:
        return []
    if not isinstance(nodes, list) or len(nodes) != 1 or not isinstance(nodes[0], list):
        raise CheckpointError(f"layer {name!r} is used {len(nodes) if isinstance(nodes, list) else 0} times, not once", OTHER_NETWORK)
    for source in nodes[0]:
        plain = isinstance(source, list) and len(source) in (3, 4) and isinstance(source[0], str)
        if not plain or source[1:3] != [0, 0] or source[3:] not in ([], [{}]):
            raise CheckpointError(f"layer {name!r} has an input of an unknown form: {source!r:.100}", OTHER_NETWORK)
    return [source[0] for source in nodes[0]]


def _check_layer(name: str, described: dict[str, Any], layer: Layer) -> None:
    kind, settings = described["class_name"], described["config"]
    if layer.kind == "Squeeze":
        _check_squeeze(name, kind, settings)
        return
    if kind == "Lambda":
        raise CheckpointError(
            f"layer {name!r} is a Lambda where the network has {layer.kind} ({layer.name}); code in a checkpoint is never run",
            OTHER_NETWORK,
        )
    if kind != layer.kind:
        raise CheckpointError(f"layer {name!r} is {kind!r:.60} where the network has {layer.kind} ({layer.name})", OTHER_NETWORK)
    wanted = _settings(layer)
    for key, values in wanted.items():
        found = settings.get(key, values[0] if key in OPTIONAL else None)
        if not any(_same(found, value) for value in values):
            raise CheckpointError(
                f"layer {name!r} ({kind}): {key} is {found!r:.80}, the network's ({layer.name}) is {values[0]!r}",
                OTHER_NETWORK,
            )
    unknown = sorted(set(settings) - set(wanted) - SILENT)
    if unknown:
        raise CheckpointError(f"layer {name!r} ({kind}) has an unknown setting {unknown[0]!r:.60}", OTHER_NETWORK)


# Settings that some versions of Keras 2 leave out; their default is what the network has.
OPTIONAL = frozenset({"groups", "interpolation", "data_format"})


def _settings(layer: Layer) -> dict[str, tuple[Any, ...]]:
    """Return the settings that decide a layer's result, each with the values that match the network; the first is the usual one."""
    image = {"data_format": ("channels_last",)}
    match layer.kind:
        case "ZeroPadding2D":
            return {"padding": ([[layer.padding] * 2] * 2,), **image}
        case "Conv2D":
            return {
                "filters": (layer.channels,),
                "kernel_size": ([layer.kernel] * 2,),
                "strides": ([layer.stride] * 2,),
                "padding": ("same" if layer.same else "valid",),
                "dilation_rate": ([1, 1],),
                "groups": (1,),
                "activation": ("linear",),
                "use_bias": (layer.bias,),
                **image,
            }
        case "BatchNormalization":
            return {"axis": (-1, 3, [3]), "epsilon": (layer.epsilon,), "center": (True,), "scale": (True,)}
        case "Activation":
            return {"activation": (layer.activation,)}
        case "MaxPooling2D":
            return {
                "pool_size": ([layer.kernel] * 2,),
                "strides": ([layer.stride] * 2,),
                "padding": ("valid",),
                **image,
            }
        case "UpSampling2D":
            return {"size": ([2, 2],), "interpolation": ("nearest",), **image}
        case "Concatenate":
            return {"axis": (-1, 3)}
    return {}


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return type(found) in (int, float) and abs(found - wanted) <= EPSILON_TOLERANCE
    return type(found) is type(wanted) and bool(found == wanted)


def _check_squeeze(name: str, kind: str, settings: dict[str, Any]) -> None:
    if kind == "GlobalAveragePooling2D" and settings.get("keepdims") is True:
        return
    if kind != "Lambda":
        raise CheckpointError(f"layer {name!r} is {kind!r:.60} where the network has a squeeze (a Lambda)", OTHER_NETWORK)
    if settings.get("arguments") not in ({}, None):
        raise CheckpointError(f"layer {name!r} is a Lambda with arguments; the network's squeeze has none", OTHER_NETWORK)
