"""Test that training leaves frozen variables unchanged, that a killed run resumes exactly, and that its checkpoint can be loaded."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.dataset import Augmentation, Scenes, sample, to_arrays
from engine.network import NetworkSpec, is_encoder
from engine.runs import load_progress
from engine.trainer import Recipe, Start, train
from seseg_trt.errors import UsageError

if TYPE_CHECKING:
    from engine.trainer import Trainer

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
TINY = NetworkSpec(repetitions=(1, 1, 1, 1), encoder_filters=4, decoder_filters=(8, 8, 8, 8, 8), se_reduction=4, input_size=64)
RECIPE = Recipe(TINY, train_encoder=True, epochs=2, batch=2, patience=0, save_every=1, augmentation=Augmentation(crop=0.7))
SOURCE, HELD_OUT = Scenes(1, 9, [(64, 64)]), Scenes(2, 3, [(64, 64)])
DATA = {"scenes": 1}


@pytest.fixture
def compiled() -> None:
    """Let TensorFlow compile the training step, for tests with many steps (12 s once, then a tenth of a second for each step)."""


@pytest.fixture(autouse=True, scope="module")
def eager_module() -> Iterator[None]:
    run_eagerly(True)
    yield
    run_eagerly(False)


@pytest.fixture(autouse=True)
def eager_unless_compiled(request: pytest.FixtureRequest) -> Iterator[None]:
    run_eagerly("compiled" not in request.fixturenames)
    yield
    run_eagerly(True)


def run_eagerly(eagerly: bool) -> None:
    import tensorflow as tf

    tf.config.run_functions_eagerly(eagerly)


def trainer_of(recipe: Recipe, **changes: Any) -> Trainer:
    from engine.trainer import Trainer

    return Trainer(dataclasses.replace(recipe, **changes), Start(), 100)


def batch(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return to_arrays([sample(SOURCE.load(i), 64) for i in range(count)])


def weights_by_layer(model: Any) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def changed_weights(before: dict[str, list[np.ndarray]], after: dict[str, list[np.ndarray]]) -> set[tuple[str, int]]:
    return {(name, i) for name in before for i in range(len(before[name])) if not np.array_equal(before[name][i], after[name][i])}


def roles(layer: Any) -> list[str]:
    return [v.name for v in layer.weights]


@pytest.mark.parametrize("batchnorm", ["frozen", "original"])
def test_frozen_layers_get_no_gradient(batchnorm: Any) -> None:
    """Check that frozen variables keep every bit: Adam's first steps are as large as the learning rate unless a gradient is exactly 0."""
    trainer = trainer_of(RECIPE, train_encoder=False, encoder_batchnorm=batchnorm)
    images, truths = batch()
    gradients = {v.path: g for v, g in trainer.gradients(images, truths)}
    before = weights_by_layer(trainer.model)
    for _ in range(2):
        trainer.learn(images, truths)
    changed = changed_weights(before, weights_by_layer(trainer.model))
    for layer in trainer.model.layers:
        for i, (role, variable) in enumerate(zip(roles(layer), layer.weights, strict=True)):
            may_learn = not is_encoder(layer.name) or (batchnorm == "original" and type(layer).__name__ == "BatchNormalization")
            statistic = role.startswith("moving")
            assert ((layer.name, i) in changed) == may_learn, (layer.name, role)
            if statistic or not may_learn:
                assert not np.any(gradients[variable.path]), (layer.name, role)
            else:
                assert np.any(gradients[variable.path]), (layer.name, role)


def test_original_freeze_is_the_original_librarys(keras224: Path) -> None:
    """Check against the fixture's architecture, which the original library wrote with encoder_freeze."""
    import h5py

    from engine.network import PRESETS

    with h5py.File(keras224 / "checkpoint.hdf5") as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
    frozen = [layer["class_name"] for layer in layers if not layer["config"].get("trainable", True)]
    model = trainer_of(Recipe(dataclasses.replace(PRESETS["seresnet20"], input_size=64))).model
    ours = [type(layer).__name__ for layer in model.layers if not layer.trainable]
    assert len(frozen) == 93
    for kind in ("Conv2D", "BatchNormalization"):
        assert ours.count(kind) == frozen.count(kind)
    assert "BatchNormalization" not in ours


def test_a_random_frozen_encoder_in_training_mode_wrecks_a_decoder(compiled: None) -> None:
    """Show why a frozen encoder without weights is refused.

    The statistics of new BatchNorms (0 and 1) are far from any batch's. One step moves them, and with them all the features that the
    decoder was trained on. If the BatchNorms are frozen too, the same step does no such damage.
    """
    images, truths = batch()
    learnt = trainer_of(RECIPE, train_encoder=False, encoder_batchnorm="frozen", learning_rate=0.01)
    for layer in learnt.model.layers:
        if type(layer).__name__ == "BatchNormalization" and not is_encoder(layer.name):
            layer.momentum = 0.8  # so that a few steps are enough for the decoder's statistics
    for _ in range(80):
        learnt.learn(images, truths)
    seen = Scenes(1, 4, [(64, 64)])  # those of the batch
    good = learnt.evaluate(seen, 4)["val_loss"]
    assert good < 0.5
    run_eagerly(True)

    def loss_after_one_step(batchnorm: Any) -> float:
        other = trainer_of(RECIPE, train_encoder=False, encoder_batchnorm=batchnorm, learning_rate=1e-12)
        other.model.set_weights(learnt.model.get_weights())
        other.learn(images, truths)
        return other.evaluate(seen, 4)["val_loss"]

    assert loss_after_one_step("frozen") == pytest.approx(good, abs=0.05)
    assert loss_after_one_step("original") > 10 * good


def test_a_frozen_encoder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="frozen but has no weights"):
        train(dataclasses.replace(RECIPE, train_encoder=False), SOURCE, HELD_OUT, tmp_path / "run", Start(), DATA)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(RECIPE, SOURCE, HELD_OUT, run, Start(), DATA, "the command")
    return run


def test_what_a_run_leaves(whole_run: Path) -> None:
    from PIL import Image

    rows = list(csv.DictReader((whole_run / "curves.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1.0", "2.0"]
    assert [row["step"] for row in rows] == ["4.0", "8.0"]
    with Image.open(whole_run / "curves.png") as plot:
        assert plot.size == (1000, 400)
    record = json.loads((whole_run / "run.json").read_text())
    best = max(float(row["val_iou"]) for row in rows)
    assert record["best"]["val_iou"] == pytest.approx(best)
    assert record["command"] == "the command"
    assert record["epochs"] == 2
    assert record["cpu_seconds"] > 0
    assert set(record["versions"]) == {"tensorflow", "keras", "numpy", "pillow"}
    assert sorted(p.name for p in whole_run.iterdir()) == ["checkpoint.hdf5", "curves.csv", "curves.png", "run.json", "state.npz"]


def test_its_checkpoint_is_read_back(whole_run: Path) -> None:
    from engine.checkpoint import load_checkpoint

    model, info = load_checkpoint(whole_run / "checkpoint.hdf5")
    assert info.kind == "weights"
    assert dataclasses.replace(info.spec, input_size=64) == TINY
    progress = load_progress(whole_run)
    assert progress is not None
    trainer = trainer_of(RECIPE)
    trainer.model.set_weights(model.get_weights())
    assert trainer.evaluate(HELD_OUT, 2)["val_loss"] == pytest.approx(progress.rows[progress.best_epoch - 1]["val_loss"], rel=1e-5)


def test_a_killed_run_goes_on_to_the_same_weights(whole_run: Path, tmp_path: Path) -> None:
    """Kill a run at a random moment and resume it; every value of its state must be that of an uninterrupted run."""
    code = (
        "from pathlib import Path; from tests.engine.test_trainer import *; run_eagerly(True);"
        f"train(RECIPE, SOURCE, HELD_OUT, Path({str(tmp_path / 'run')!r}), Start(), DATA)"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "state.npz").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it saved no state"
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = load_progress(tmp_path / "run")
    assert stopped is not None
    train(RECIPE, SOURCE, HELD_OUT, tmp_path / "run", Start(), DATA)
    finished, whole = load_progress(tmp_path / "run"), load_progress(whole_run)
    assert finished is not None
    assert whole is not None
    assert finished.rows[: len(stopped.rows)] == stopped.rows
    assert finished.rows == whole.rows
    assert finished.step == whole.step == 8
    with np.load(tmp_path / "run" / "state.npz") as ours, np.load(whole_run / "state.npz") as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            assert name == "progress" or np.array_equal(ours[name], theirs[name]), name


def test_every_step_can_be_gone_on_from(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a run in the middle of an epoch and resume it; only the steps since the last saved state are repeated."""
    from engine import runs

    class Killed(Exception):
        pass

    save, saves = runs.save_state, 0

    def save_then_die(*args: Any) -> None:
        nonlocal saves
        save(*args)
        saves += 1
        if saves == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_state", save_then_die)
        with pytest.raises(Killed):
            train(RECIPE, SOURCE, HELD_OUT, tmp_path, Start(), DATA)
    stopped = load_progress(tmp_path)
    assert stopped is not None
    assert (stopped.step, len(stopped.rows)) == (6, 1)
    train(RECIPE, SOURCE, HELD_OUT, tmp_path, Start(), DATA)
    assert (tmp_path / "curves.csv").read_bytes() == (whole_run / "curves.csv").read_bytes()
    assert (tmp_path / "checkpoint.hdf5").stat().st_size == (whole_run / "checkpoint.hdf5").stat().st_size


def test_another_recipe_does_not_go_on(whole_run: Path) -> None:
    with pytest.raises(UsageError, match=r"another recipe: batch was 2, is 3"):
        train(dataclasses.replace(RECIPE, batch=3), SOURCE, HELD_OUT, whole_run, Start(), DATA)
    with pytest.raises(UsageError, match=r"data was .*1.*, is .*2"):
        train(RECIPE, SOURCE, HELD_OUT, whole_run, Start(), {"scenes": 2})


def test_early_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.trainer import Trainer

    scores = iter([0.5, 0.4, 0.6, 0.6, 0.1, 0.9])
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: {"val_loss": 1.0, "val_iou": next(scores), "val_iou_mean": 0.0})
    recipe = dataclasses.replace(RECIPE, epochs=6, batch=9, patience=2)
    progress = train(recipe, SOURCE, HELD_OUT, tmp_path, Start(), DATA)
    assert progress.stopped_early
    assert len(progress.rows) == 5
    assert progress.best_epoch == 3
    again = train(recipe, SOURCE, HELD_OUT, tmp_path, Start(), DATA)
    assert len(again.rows) == 5


def test_it_learns(compiled: None) -> None:
    """Train on forty batches of the same scenes; the loss must fall clearly."""
    trainer = trainer_of(RECIPE, learning_rate=0.01)
    images, truths = batch()
    first = trainer.learn(images, truths)
    for _ in range(40):
        last = trainer.learn(images, truths)
    assert last < first - 0.4


def test_cosine_schedule_warms_up_and_ends_at_nothing() -> None:
    trainer = trainer_of(RECIPE, schedule="cosine", learning_rate=0.01)
    rates = []
    for step in range(101):
        trainer.optimizer.iterations.assign(step)
        rates.append(float(trainer.optimizer.learning_rate))
    assert rates[0] == 0
    assert rates[10] == max(rates) == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.005)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_half_precision_keeps_its_sigmoid_and_weights_whole() -> None:
    """Train in mixed precision on the CPU: float16 inside, float32 weights and confidence, and a falling loss."""
    trainer = trainer_of(RECIPE, mixed_precision=True, learning_rate=0.01)
    images, truths = batch(2)
    p = trainer.model(images, training=False)
    assert p.dtype == "float32"
    assert trainer.model.get_layer("decoder_stage4_conv1").compute_dtype == "float16"
    assert all(v.dtype == "float32" for v in trainer.model.trainable_variables)
    losses = [trainer.learn(images, truths) for _ in range(5)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_the_encoders_own_weights_go_where_they_belong(keras224: Path, tmp_path: Path) -> None:
    """Load an encoder's file in the original libraries' form, cut out of a checkpoint that they wrote."""
    import h5py

    from engine.checkpoint import load_checkpoint
    from engine.network import PRESETS
    from engine.trainer import Trainer

    with h5py.File(keras224 / "weights.h5") as whole, h5py.File(tmp_path / "encoder.h5", "w") as part:
        names = [n for n in whole.attrs["layer_names"] if not n.startswith((b"decoder_", b"final_conv", b"sigmoid"))]
        part.attrs["layer_names"] = names
        for name in names:
            whole.copy(whole[name], part, name.decode())
    spec = dataclasses.replace(PRESETS["seresnet20"], input_size=64)
    model = Trainer(Recipe(spec), Start(encoder=tmp_path / "encoder.h5"), 10).model
    original, _ = load_checkpoint(keras224 / "weights.h5")
    changed = changed_weights(weights_by_layer(original), weights_by_layer(model))
    assert changed
    assert not any(is_encoder(name) for name, _ in changed)
    whole_model = Trainer(Recipe(spec), Start(checkpoint=keras224 / "checkpoint.hdf5"), 10).model
    assert not changed_weights(weights_by_layer(original), weights_by_layer(whole_model))
    with pytest.raises(UsageError, match="holds u-seresnet20, not u-seresnet14x4"):
        Trainer(Recipe(TINY), Start(checkpoint=keras224 / "checkpoint.hdf5"), 10)
