"""Make the graphs and plans that seseg_trt runs from a Keras checkpoint, with a certificate for each graph.

``python build_engine.py --checkpoint C.hdf5 --out DIR`` makes ``model.onnx`` (FP32) and ``model.fp16.onnx``. The FP32 graph is certified
against the checkpoint in Keras, every other graph against the FP32 graph. A recipe selects another precision.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seseg_trt.errors import ModelError, UsageError
from seseg_trt.storage.atomic import atomic_write

if TYPE_CHECKING:
    from engine.build_images import ImageSets
    from engine.recipe import Recipe
    from seseg_trt.models.certificate import Certificate, Gate
    from seseg_trt.quality.verify import Entry, Subject

SEARCHED_ON = 64
PROBES = 4
AGAINST_KERAS = 24  # images; few, because Keras is slow and the export has already compared the two
FP32_GATE, NO_GATE = (0.9999, 0.0), (0.0, 0.0)
FP32_REWRITES = ("convolve-before-upsampling",)  # faster in OpenVINO, which runs this graph by default


@dataclass(frozen=True)
class Source:
    """A Keras model to export, with the origin of its weights.

    Attributes:
        model: the Keras model.
        name: what certificates call it.
        sha256: the hash of its checkpoint, or ``random:SEED``.
        path: its checkpoint, or None.
    """

    model: Any
    name: str
    sha256: str
    path: Path | None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--checkpoint", type=click.Path(path_type=Path), help="HDF5 of Keras 2: model.save() or save_weights().")
@click.option("--random-weights", metavar="SEED", type=click.IntRange(0), help="Use calibrated random weights instead of a checkpoint.")
@click.option("--graph", help="Use an FP32 graph instead of a checkpoint: a file, a name in the cache, or 'demo'.")
@click.option("--network", help="The network for random weights, e.g. seresnet152; with a checkpoint: refuse any other.")
@click.option("--recipe", type=click.Path(path_type=Path), help="TOML, e.g. engine/recipes/int8.toml. Default: FP32 and FP16.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for model*.onnx; created if it is missing.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Folder of images like yours, to calibrate and certify on; required for INT8 and FP8."
)
@click.option("--float-output", is_flag=True, help="Give the FP32 graph a second output `p`: the confidence as float32.")
@click.option("--store", metavar="NAME", help="Store the result in the cache as the model NAME and make it the default.")
def main(
    checkpoint: Path | None,
    random_weights: int | None,
    graph: str | None,
    network: str | None,
    recipe: Path | None,
    out: Path,
    images: Path | None,
    float_output: bool,
    store: str | None,
) -> None:
    """Make graphs from a Keras checkpoint, each with a certificate of how its masks agree, and a plan if the recipe has one.

    Exit codes: 0 done; 1 usage; 3 checkpoint, graph or device; 4 a graph is under its gate.
    """
    if [checkpoint, random_weights, graph].count(None) != 2:
        raise UsageError("the weights must come from exactly one source", "give one of --checkpoint, --random-weights and --graph")
    from engine.build_images import image_sets
    from engine.recipe import Recipe, load_recipe

    wanted = Recipe() if recipe is None else load_recipe(recipe)
    sets = image_sets(images, quantised=wanted.precision in ("int8", "fp8"))
    if images is not None and sets.calibration:
        click.echo(f"{len(sets.calibration)} images to calibrate on, {len(sets.certificate)} others to certify on")
    if few := sets.warning():
        click.echo(f"warning: {few}", err=True)
    out.mkdir(parents=True, exist_ok=True)
    if graph is not None:
        plain = _take_fp32(graph, out)
    else:
        plain = _make_fp32(_source(checkpoint, random_weights, network), out, wanted, sets, float_output)
    if wanted.precision != "fp32":
        certificate = _make_precision(plain, out, wanted, sets)
        if recipe is not None:
            certificate.require()
        elif not certificate.passed:
            # FP16 is only the default and the FP32 graph is good. A network may do badly on images unlike its own, so warn.
            click.echo(f"warning: FP16 is under its gate on these images: {'; '.join(certificate.failures())}", err=True)
            click.echo("  give --images a folder of images like yours, or use the FP32 graph", err=True)
    if wanted.plan is not None:
        _make_plan(out, wanted)
    if store is not None:
        from seseg_trt.models import cache

        click.echo(f"stored as {store}, the default model, in {cache.store(store, out)}")


# -- sources of the weights ------------------------------------------------------------------------------------------------------


def _source(checkpoint: Path | None, seed: int | None, network: str | None) -> Source:
    from engine.quiet import quiet_tensorflow

    quiet_tensorflow()
    if checkpoint is None:
        from engine.random_weights import random_model

        click.echo(f"random weights, seed {seed}, calibrated on scenes: an untrained network for benchmarks")
        model = random_model(seed or 0, network or "seresnet152")
        click.echo(f"{model.name}: {model.count_params():,} parameters")
        return Source(model, f"random weights {seed}", f"random:{seed}", None)
    from engine.checkpoint import load_checkpoint

    click.echo(f"reading {checkpoint}")
    model, info = load_checkpoint(checkpoint)
    if network is not None and info.spec.name.removeprefix("u-") != network.removeprefix("u-"):
        raise ModelError(f"{checkpoint} holds {info.spec.name}, not {network}", "leave --network out, or give the other checkpoint")
    click.echo(f"{info.spec.name}: {model.count_params():,} parameters, sha256 {info.sha256[:12]}")
    return Source(model, checkpoint.name, info.sha256, checkpoint)


# -- graphs and plans --------------------------------------------------------------------------------------------------------------


def _make_fp32(source: Source, out: Path, recipe: Recipe, sets: ImageSets, float_output: bool) -> Any:
    """Write the FP32 graph and its certificate; return the graph before rewrites, which is the source of other precisions."""
    from engine.export import export_onnx
    from engine.rewrite import count_macs, rewrite
    from seseg_trt.models.certificate import Gate
    from seseg_trt.quality.images import spread
    from seseg_trt.quality.verify import open_subject

    click.echo("converting, and comparing the graph with Keras")
    path = out / "model.onnx"
    exported = export_onnx(source.model, path, checkpoint_sha256=source.sha256, float_output=float_output)
    click.echo(f"graph against Keras: {exported.agreement}")
    plain = _load(path)
    rewritten = rewrite(plain, recipe.rewrites if recipe.precision == "fp32" and recipe.rewrites is not None else FP32_REWRITES)
    _save(rewritten, path)
    macs = f"{count_macs(plain) / 1e9:.3f} GMAC an image, {count_macs(rewritten) / 1e9:.3f} after rewrites"
    click.echo(f"wrote {path} ({path.stat().st_size:,} bytes, {macs})")
    # no gate for random weights: they amplify rounding errors, and their masks mean nothing
    gate = Gate(*(FP32_GATE if source.path is not None else NO_GATE))
    with open_subject(_artifact(path)) as graph:
        certificate = _certify(_keras_subject(source), graph, spread(sets.certificate, AGAINST_KERAS), gate)
    _keep(certificate, path)
    certificate.require()
    return plain


def _take_fp32(name: str, out: Path) -> Any:
    from seseg_trt.models import cache
    from seseg_trt.models.certificate import certificate_path

    artifact = cache.find_model(name)
    if artifact.kind != "onnx" or artifact.precision != "fp32":
        raise ModelError(f"{artifact.path} is a {artifact.precision} {artifact.kind}", "give an FP32 graph to make other precisions from")
    path = out / "model.onnx"
    if not (path.exists() and path.samefile(artifact.path)):
        for file in (artifact.path, certificate_path(artifact.path)):
            target = path if file == artifact.path else certificate_path(path)
            target.unlink(missing_ok=True)
            if file.exists():
                shutil.copyfile(file, target)
    click.echo(f"using {artifact}")
    return _load(path)


def _make_precision(plain: Any, out: Path, recipe: Recipe, sets: ImageSets) -> Certificate:
    from engine.precision import to_fp16
    from engine.rewrite import rewrite

    reference, path = out / "model.onnx", out / f"model.{recipe.precision}.onnx"
    model = rewrite(plain, recipe.rewrites or ())
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as folder:
        draft = Path(folder) / path.name  # the final name, since the certificate records it
        if recipe.precision == "fp16":
            _save(to_fp16(model), draft)
            certificate = _certify_graph(reference, draft, recipe, sets.certificate)
        else:
            certificate = _quantise(model, reference, draft, recipe, sets)
        draft.replace(path)
    click.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
    _keep(certificate, path)
    return certificate


def _quantise(model: Any, reference: Path, draft: Path, recipe: Recipe, sets: ImageSets) -> Certificate:
    """Write the first graph that meets the gate on the calibration images and on the others; return its certificate on the others."""
    from engine.build_images import network_inputs
    from engine.calibration import calibrate
    from engine.precision import Quantisation
    from engine.qdq import points_of
    from engine.sensitive import quantise_within_gate
    from seseg_trt.quality.images import spread

    assert recipe.precision in ("int8", "fp8")
    how = Quantisation(recipe.precision, recipe.activations, recipe.rest, recipe.keep)
    names = list(dict.fromkeys(point.tensor for point in points_of(model)))
    size = _artifact(reference).input_size
    with _progress(len(sets.calibration), "calibrating") as bar:
        calibration = calibrate(model, names, network_inputs(sets.calibration, size), bar)
    made: list[Certificate] = []

    def score(graph: Any) -> _Verdict:
        _save(graph, draft)
        first = _certify_graph(reference, draft, recipe, spread(sets.calibration, SEARCHED_ON))
        if not first.passed:
            return _Verdict(False, first, "calibration")
        made[:] = [_certify_graph(reference, draft, recipe, sets.certificate)]
        return _Verdict(made[0].passed, made[0], "other")

    probes = list(network_inputs(spread(sets.calibration, PROBES), size))
    quantise_within_gate(model, calibration, how, score, probes, click.echo)
    return made[0]


@dataclass(frozen=True)
class _Verdict:
    good: bool
    certificate: Certificate
    images: str

    def __str__(self) -> str:
        iou = self.certificate.iou
        return f"IoU {iou['pooled']:.5f} pooled, {iou['worst']:.4f} worst, on {self.certificate.data['images']} {self.images} images"


def _make_plan(out: Path, recipe: Recipe) -> None:
    from seseg_trt.backends.tensorrt_build import build_plan, expected_identity, plan_name

    assert recipe.plan is not None
    graph = out / ("model.onnx" if recipe.precision == "fp32" else f"model.{recipe.precision}.onnx")
    identity = expected_identity(graph, recipe.plan)
    path = out / plan_name("model", identity)
    click.echo(f"building {path}: {identity}")
    seen: set[str] = set()

    def show(phase: str, done: int, total: int) -> None:
        if phase not in seen:
            seen.add(phase)
            click.echo(f"  {phase}")

    built = build_plan(graph, path, recipe.plan, show)
    click.echo(f"wrote {path} ({built.plan_bytes:,} bytes)")


# -- certificates ----------------------------------------------------------------------------------------------------------------


def _keras_subject(source: Source) -> Subject:
    import keras
    import numpy as np
    import tensorflow as tf

    from seseg_trt.quality.verify import Subject

    def run(images: Any) -> tuple[Any, Any]:
        p = np.asarray(source.model(images.astype(np.float32), training=False))[..., 0]
        return (p * np.float32(255)).astype(np.uint8), p

    size = int(source.model.input_shape[1])
    description = f"Keras {keras.__version__}, TensorFlow {tf.__version__}, cpu"
    return Subject(source.name, source.sha256, size, description, run, path=source.path)


def _certify_graph(reference: Path, candidate: Path, recipe: Recipe, entries: Sequence[Entry]) -> Certificate:
    from seseg_trt.models.certificate import Gate
    from seseg_trt.quality.verify import open_subject

    # OpenVINO runs an FP16 graph in FP32; ONNX Runtime rounds each tensor to FP16, so its result is closer to a GPU's.
    backend: Any = "onnxruntime" if recipe.precision == "fp16" else "openvino"
    with open_subject(_artifact(reference)) as one, open_subject(_artifact(candidate), backend=backend) as other:
        return _certify(one, other, entries, Gate(recipe.min_iou, recipe.min_worst_iou))


def _certify(reference: Subject, candidate: Subject, entries: Sequence[Entry], gate: Gate) -> Certificate:
    from seseg_trt.quality.verify import VerifyOptions, certify

    with _progress(len(entries), f"{candidate.name} against {reference.name}") as advance:
        return certify(reference, candidate, entries, gate=gate, options=VerifyOptions(drift_images=4), progress=lambda bad: advance())


def _keep(certificate: Certificate, path: Path) -> None:
    """Write a certificate beside its artifact, whether or not it meets the gate, and print a line about it."""
    from seseg_trt.models.certificate import certificate_path

    target = certificate_path(path)
    certificate.write(target)
    iou = certificate.iou
    click.echo(f"{certificate.line()}; worst image {iou['worst']:.4f}, {certificate.data['images']} images: {target}")


# -- helpers ---------------------------------------------------------------------------------------------------------------------


def _artifact(path: Path) -> Any:
    from seseg_trt.models.artifact import load_artifact

    return load_artifact(path)


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _save(model: Any, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _progress(total: int, title: str) -> Iterator[Any]:
    """Show a progress bar on a terminal, one line elsewhere; yield the function that advances it."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        click.echo(f"{title}: {total} images")
    with tqdm(total=total, desc=title, unit="image", disable=None, leave=False) as bar:
        yield bar.update


if __name__ == "__main__":
    from seseg_trt.cli.main import run

    sys.exit(run(main, name="build_engine.py"))
