"""Test that a checkpoint of another architecture is refused, even if its weights have the same shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.architecture import ConvSignature, derive_spec, keras2_order
from engine.network import PRESETS, NetworkSpec, plan_layers
from seseg_trt.errors import CheckpointError

from .checkpoints import Edit, refused, settings


def convolutions(spec: NetworkSpec) -> list[ConvSignature]:
    layers = keras2_order(plan_layers(spec))
    return [ConvSignature(c.kernel, c.channels, c.bias, c.in_channels) for c in layers if c.kind == "Conv2D"]


class TestDerivedSizes:
    """Tests that the network is derived from its convolutions alone, even if one of them is wrong."""

    @pytest.mark.parametrize(
        "spec",
        [*PRESETS.values(), NetworkSpec((2, 1, 1, 3), 12, (9, 9, 5, 5, 3), 8), NetworkSpec((1, 1, 1, 1), 10, (1,) * 5)],
        ids=lambda spec: spec.name,
    )
    def test_of_whole_networks(self, spec: NetworkSpec) -> None:
        assert derive_spec([replace(c, in_channels=0) for c in convolutions(spec)]) == spec
        assert derive_spec(convolutions(spec)) == spec

    def test_of_networks_with_one_convolution_missing_or_wrong(self) -> None:
        spec = PRESETS["seresnet20"]
        whole = convolutions(spec)
        wrong = ConvSignature(3, 77, False)
        for i in range(len(whole) - 1):
            assert derive_spec([*whole[:i], wrong, *whole[i + 1 :]]) == spec, i
            assert derive_spec(whole[:i] + whole[i + 1 :]) == spec, i

    @pytest.mark.parametrize("count", [0, 1, 20, 5000])
    def test_of_something_else(self, count: int) -> None:
        with pytest.raises(CheckpointError, match=f"{count} convolutions"):
            derive_spec([ConvSignature(5, 4, True)] * count)


def set_at(name: str, key: str, value: Any) -> Edit:
    def edit(config: Any) -> None:
        settings(config, name)["config"][key] = value

    return edit


def feed(name: str, *sources: Any) -> Edit:
    def edit(config: Any) -> None:
        settings(config, name)["inbound_nodes"] = [[s if isinstance(s, list) else [s, 0, 0, {}] for s in sources]]

    return edit


def become(name: str, kind: str, config_of_it: dict[str, Any] | None = None) -> Edit:
    def edit(config: Any) -> None:
        layer = settings(config, name)
        layer["class_name"] = kind
        layer["config"] = {"name": name, **(config_of_it or {})}

    return edit


def append(layer: dict[str, Any]) -> Edit:
    return lambda config: config["config"]["layers"].append(layer)


EXTRA = {"name": "dropout_1", "class_name": "Dropout", "config": {"rate": 0.5}, "inbound_nodes": [[["input", 0, 0, {}]]]}
SPY = {"name": "spy", "class_name": "Lambda", "config": {"function": ["4wEAAA==", None, None]}, "inbound_nodes": []}


@pytest.mark.engine
class TestOtherArchitectures:
    """Tests that networks with the same weights but another architecture, and so other masks, are refused."""

    @pytest.mark.parametrize(
        ("edit", "said"),
        [
            (set_at("conv2d_8", "strides", [1, 1]), "'conv2d_8' (Conv2D): strides is [1, 1]"),
            (set_at("conv2d_3", "padding", "same"), "'conv2d_3' (Conv2D): padding is 'same'"),
            (set_at("conv2d_3", "dilation_rate", [2, 2]), "'conv2d_3' (Conv2D): dilation_rate"),
            (set_at("conv2d_3", "activation", "relu"), "'conv2d_3' (Conv2D): activation"),
            (set_at("conv2d_3", "groups", 2), "'conv2d_3' (Conv2D): groups"),
            (set_at("conv2d_3", "data_format", "channels_first"), "'conv2d_3' (Conv2D): data_format"),
            (set_at("conv2d_3", "use_bias", True), "'conv2d_3' (Conv2D): use_bias is True"),
            (set_at("conv2d_3", "use_bias", 0), "'conv2d_3' (Conv2D): use_bias is 0"),
            (set_at("conv2d_3", "filters", 9), "'conv2d_3' (Conv2D): filters is 9"),
            (set_at("conv2d_3", "filters", "8"), "'conv2d_3'"),
            (set_at("conv2d_3", "kernel_size", [3]), "'conv2d_3'"),
            (set_at("conv2d_3", "secret", 1), "'conv2d_3' (Conv2D) has an unknown setting 'secret'"),
            (set_at("batch_normalization_3", "epsilon", 1e-3), "'batch_normalization_3' (BatchNormalization): epsilon"),
            (set_at("batch_normalization_3", "epsilon", float("nan")), "'batch_normalization_3'"),
            (set_at("decoder_stage0_bn1", "scale", False), "'decoder_stage0_bn1' (BatchNormalization): scale"),
            (set_at("decoder_stage0_bn1", "axis", 1), "'decoder_stage0_bn1' (BatchNormalization): axis"),
            (set_at("activation_3", "activation", "elu"), "'activation_3' (Activation): activation is 'elu'"),
            (set_at("sigmoid", "activation", "softmax"), "'sigmoid' (Activation): activation"),
            (set_at("zero_padding2d_1", "padding", [[3, 3], [2, 4]]), "'zero_padding2d_1' (ZeroPadding2D): padding"),
            (set_at("max_pooling2d_1", "pool_size", [2, 2]), "'max_pooling2d_1' (MaxPooling2D): pool_size"),
            (set_at("decoder_stage0_upsample", "size", [4, 4]), "'decoder_stage0_upsample' (UpSampling2D): size"),
            (set_at("decoder_stage0_upsample", "interpolation", "bilinear"), "interpolation is 'bilinear'"),
            (set_at("concatenate_1", "axis", 1), "'concatenate_1' (Concatenate): axis"),
            (set_at("input", "batch_input_shape", [None, 100, 100, 3]), "'input' takes"),
            (set_at("input", "batch_input_shape", [None, None, None, 4]), "'input' takes"),
            (set_at("lambda_2", "arguments", {"axis": 0}), "'lambda_2' is a Lambda with arguments"),
            (become("activation_3", "Lambda"), "'activation_3' is a Lambda where the network has Activation"),
            (become("lambda_1", "Flatten"), "'lambda_1' is 'Flatten' where the network has a squeeze"),
            (become("lambda_1", "GlobalAveragePooling2D"), "'lambda_1'"),
            (become("activation_3", "LeakyReLU"), "'activation_3' is 'LeakyReLU'"),
            (become("add_1", "Average"), "'add_1' is 'Average'"),
            (become("zero_padding2d_3", "Evil\x1b[31m", {}), "'zero_padding2d_3' is 'Evil\\x1b[31m'"),
            (feed("multiply_1", "activation_5", "activation_5"), "'multiply_1'"),
            (feed("concatenate_1", "decoder_stage0_upsample", "activation_22"), "'activation_22'"),
            (feed("concatenate_1", "activation_26", "decoder_stage0_upsample"), "'activation_26'"),
            (feed("add_2", "multiply_2"), "'add_2' has 1 inputs"),
            (feed("activation_9", "nowhere"), "'nowhere'"),
            (feed("activation_9", ["conv2d_12", 1, 0, {}]), "'activation_9' has an input of an unknown form"),
            (feed("activation_9", ["conv2d_12", 0, 0, {"training": True}]), "'activation_9' has an input of an unknown form"),
            (feed("input", "sigmoid"), "'input' has 1 inputs"),
            (lambda c: settings(c, "conv2d_3").update(inbound_nodes=[[], []]), "'conv2d_3' is used 2 times"),
            (lambda c: settings(c, "conv2d_3").update(inbound_nodes=None), "'conv2d_3' is used 0 times"),
            (append(EXTRA), "'dropout_1' (Dropout) is not part of the network"),
            (append(SPY), "'spy' (Lambda) is not part of the network"),
            (append({**EXTRA, "name": "conv2d_3"}), "'conv2d_3' twice"),
            (append({"name": 3}), "has an unknown form"),
            (append({**EXTRA, "name": "x" * 10_000}), "has a name of over 512 characters"),
            (lambda c: c.update(class_name="Sequential"), "'Sequential'"),
            (lambda c: c.update(config=[]), "not a Keras Model"),
            (lambda c: c["config"].update(layers=[]), "lists no layers"),
            (lambda c: c["config"].update(layers=c["config"]["layers"][:40]), "convolutions"),
            (lambda c: c["config"].update(output_layers=[]), "one output"),
            (lambda c: c["config"].update(output_layers=[["final_conv", 0, 0]]), "'final_conv'"),
            (lambda c: c["config"].update(output_layers=[["sigmoid", 0, 1]]), "not a plain layer"),
            (lambda c: c["config"].update(input_layers=[["activation_1", 0, 0]]), "input"),
        ],
    )
    def test_it_is_refused_by_name(self, redescribed: Callable[[Edit], Path], edit: Edit, said: str) -> None:
        assert said in refused(redescribed(edit))

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"class_name": "Model"}', '{"config": {"layers": 1e999}}'])
    def test_architectures_that_are_none(self, edited: Callable[..., Path], text: str) -> None:
        def edit(file: Any) -> None:
            file.attrs["model_config"] = text

        refused(edited("checkpoint.hdf5", edit))

    def test_one_that_is_no_text(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            file.attrs["model_config"] = np.arange(5)

        assert "not a text" in refused(edited("checkpoint.hdf5", edit))
