"""Test the description of the network and the Keras model that is built from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.architecture import keras2_order
from engine.network import (
    PRESETS,
    NetworkSpec,
    encoder_layers,
    fold_layers,
    freeze_encoder,
    is_encoder,
    parameter_count,
    plan_layers,
    reduction_of,
    spec_of,
)
from seseg_trt.errors import UsageError


def test_the_full_size_has_the_published_number_of_parameters() -> None:
    assert parameter_count(NetworkSpec()) == 73_939_329


def test_the_small_one_has_as_many_as_the_original_library_counted(keras224: Path) -> None:
    manifest = json.loads((keras224 / "manifest.json").read_text())
    spec = PRESETS["seresnet20"]
    assert (parameter_count(spec), spec.name) == (manifest["parameters"], manifest["model"])


def test_the_skips_stand_where_the_original_library_takes_them() -> None:
    order = [layer.name for layer in keras2_order(plan_layers(NetworkSpec()))]
    assert len(order) == 906
    skips = [order[i] for i in (811, 197, 59, 4)]  # the indices that segmentation-models 0.2.0 lists for seresnet152
    assert skips == ["stage3_unit36_relu", "stage2_unit8_relu", "stage1_unit3_relu", "stem_relu"]
    layers = plan_layers(NetworkSpec())
    assert [layers[f"decoder_stage{i}_concat"].inputs[1] for i in range(4)] == skips


def test_depths_are_those_of_the_published_names() -> None:
    assert [spec.name for spec in PRESETS.values()] == [f"u-{name}" for name in PRESETS]
    for name, spec in PRESETS.items():
        assert name == f"seresnet{3 * sum(spec.repetitions) + 2}"
    assert NetworkSpec(repetitions=(1, 1, 1, 1), encoder_filters=12).name == "u-seresnet14x12"


def test_folding_leaves_no_batchnorm_and_a_bias_for_each() -> None:
    layers = plan_layers(PRESETS["seresnet20"])
    folded = fold_layers(layers)
    norms = [layer for layer in layers.values() if layer.kind == "BatchNormalization"]
    assert {layer.inputs[0] for layer in norms} == {name for name in folded if folded[name].bias and not layers[name].bias}
    assert not any(layer.kind == "BatchNormalization" for layer in folded.values())
    assert all(i in folded for layer in folded.values() for i in layer.inputs)


@pytest.mark.parametrize(
    "sizes",
    [
        {"repetitions": (1, 2, 3)},
        {"repetitions": (0, 1, 1, 1)},
        {"decoder_filters": (1, 2, 3)},
        {"encoder_filters": 0},
        {"se_reduction": 1000},
        {"input_size": 100},
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        NetworkSpec(**sizes)  # type: ignore[arg-type]


def test_the_usual_reduction_is_found_where_rounding_leaves_a_choice() -> None:
    assert reduction_of(40, 2) == 16
    assert reduction_of(256, 16) == 16
    assert reduction_of(256, 32) == 8


@pytest.mark.engine
class TestKerasModel:
    def test_it_is_what_the_description_says(self) -> None:
        from engine.network import build_unet

        spec = NetworkSpec((1, 1, 2, 1), 8, (9, 8, 7, 6, 5), input_size=64)
        model = build_unet(spec)
        assert model.count_params() == parameter_count(spec)
        assert model.input_shape == (None, 64, 64, 3)
        assert model.output_shape == (None, 64, 64, 1)
        assert spec_of(model) == spec
        epsilons = {l.name: l.epsilon for l in model.layers if type(l).__name__ == "BatchNormalization"}  # noqa: E741
        assert {e for n, e in epsilons.items() if is_encoder(n)} == {9.999999747378752e-06}
        assert {e for n, e in epsilons.items() if not is_encoder(n)} == {1e-3}

    def test_freezing_leaves_the_decoder_and_what_is_asked_for(self) -> None:
        from engine.network import build_unet

        model = build_unet(NetworkSpec((1, 1, 1, 1), 8, (4, 4, 4, 4, 4), input_size=32))
        decoder = [w.path for layer in model.layers if not is_encoder(layer.name) for w in layer.trainable_weights]
        freeze_encoder(model, batchnorm=True)
        assert [w.path for w in model.trainable_weights] == decoder
        freeze_encoder(model)
        kinds = {type(layer).__name__ for layer in encoder_layers(model) if layer.trainable_weights}
        assert kinds == {"BatchNormalization"}

    def test_another_model_is_not_taken_for_one_of_these(self) -> None:
        import keras

        with pytest.raises(UsageError, match="other"):
            spec_of(keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)], name="other"))
