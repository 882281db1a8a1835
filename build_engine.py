"""From a Keras checkpoint to what seseg_trt runs: graph, precision, certificate, plan.

``python build_engine.py --checkpoint C.hdf5 --out DIR`` makes ``model.onnx`` (FP32) and ``model.fp16.onnx`` with a certificate each: the
FP32 graph's against the checkpoint in Keras, every other's against the FP32 graph. A recipe chooses another precision.
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

if TYPE_CHECKING:
    from engine.build_images import ImageSets
    from engine.recipe import Recipe
    from seseg_trt.certificate import Certificate, Gate
    from seseg_trt.verify import Entry, Subject

SEARCHED_ON = 64
PROBES = 4
AGAINST_KERAS = 24  # images: Keras is slow, and the export has compared the two already
FP32_GATE, NO_GATE = (0.9999, 0.0), (0.0, 0.0)
FP32_REWRITES = ("convolve-before-upsampling",)  # pays in OpenVINO, which runs this graph unless it is told otherwise


@dataclass(frozen=True)
class Source:
    """Where the weights come from: the Keras model, what to call it, its SHA-256 (or ``random:SEED``) and its file, if it has one."""

    model: Any
    name: str
    sha256: str
    path: Path | None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Keras 2 HDF5: model.save() or save_weights().")
@click.option("--random-weights", metavar="SEED", type=click.IntRange(0), help="In place of a checkpoint: calibrated random weights.")
@click.option("--graph", help="In place of a checkpoint: an FP32 graph made before, a name in the cache, or 'demo'.")
@click.option("--network", help="Of the random weights, e.g. seresnet152; with a checkpoint: refuse any other.")
@click.option("--recipe", type=click.Path(path_type=Path), help="TOML, e.g. engine/recipes/int8.toml. Default: FP32 and FP16.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for model*.onnx; made if it is not there.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Images like yours, to calibrate and to certify on; INT8 and FP8 need them."
)
@click.option("--float-output", is_flag=True, help="Give the confidence as float32 too, as the FP32 graph's second output `p`.")
@click.option("--store", metavar="NAME", help="Keep the result in the cache as the model NAME, and make it the default.")
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
    """Make graphs of a Keras checkpoint, with a certificate of what each costs in masks, and a plan where a recipe asks for one.

    Exit codes: 0 done; 1 usage; 3 checkpoint, graph or device; 4 a graph is under its gate.
    """
    if [checkpoint, random_weights, graph].count(None) != 2:
        raise UsageError("where the weights come from is not clear", "give one of --checkpoint, --random-weights and --graph")
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
            # Nobody asked for FP16 by name, and the FP32 graph is good: a network that is not at home on these images is no failure.
            click.echo(f"warning: FP16 is under its gate on these images: {'; '.join(certificate.failures())}", err=True)
            click.echo("  give --images a folder of images like yours, or take the FP32 graph", err=True)
    if wanted.plan is not None:
        _make_plan(out, wanted)
    if store is not None:
        from seseg_trt import cache

        click.echo(f"stored as {store}, the default model, in {cache.store(store, out)}")


# -- where things come from ------------------------------------------------------------------------------------------------------


def _source(checkpoint: Path | None, seed: int | None, network: str | None) -> Source:
    from engine.quiet import quiet_tensorflow

    quiet_tensorflow()
    if checkpoint is None:
        from engine.random_weights import random_model

        click.echo(f"random weights by seed {seed}, calibrated on scenes: a network for benchmarks, which knows nothing")
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


# -- what is made ----------------------------------------------------------------------------------------------------------------


def _make_fp32(source: Source, out: Path, recipe: Recipe, sets: ImageSets, float_output: bool) -> Any:
    """Write the FP32 graph and its certificate; return the graph without rewrites, of which other precisions are made."""
    from engine.export import export_onnx
    from engine.rewrite import count_macs, rewrite
    from seseg_trt.certificate import Gate
    from seseg_trt.quality.images import spread
    from seseg_trt.verify import open_subject

    click.echo("converting, and comparing the graph with Keras")
    path = out / "model.onnx"
    exported = export_onnx(source.model, path, checkpoint_sha256=source.sha256, float_output=float_output)
    click.echo(f"graph against Keras: {exported.agreement}")
    plain = _load(path)
    rewritten = rewrite(plain, recipe.rewrites if recipe.precision == "fp32" and recipe.rewrites is not None else FP32_REWRITES)
    _save(rewritten, path)
    macs = f"{count_macs(plain) / 1e9:.3f} GMAC an image, {count_macs(rewritten) / 1e9:.3f} as it is written"
    click.echo(f"wrote {path} ({path.stat().st_size:,} bytes, {macs})")
    # random weights have no masks to get wrong, and amplify rounding
    gate = Gate(*(FP32_GATE if source.path is not None else NO_GATE))
    with open_subject(_artifact(path)) as graph:
        certificate = _certify(_keras_subject(source), graph, spread(sets.certificate, AGAINST_KERAS), gate)
    _keep(certificate, path)
    certificate.require()
    return plain


def _take_fp32(name: str, out: Path) -> Any:
    from seseg_trt import cache
    from seseg_trt.certificate import certificate_path

    artifact = cache.find_model(name)
    if artifact.kind != "onnx" or artifact.precision != "fp32":
        raise ModelError(f"{artifact.path} is a {artifact.precision} {artifact.kind}", "other precisions are made of an FP32 graph")
    path = out / "model.onnx"
    if not (path.exists() and path.samefile(artifact.path)):
        for file in (artifact.path, certificate_path(artifact.path)):
            target = path if file == artifact.path else certificate_path(path)
            target.unlink(missing_ok=True)
            if file.exists():
                shutil.copyfile(file, target)
    click.echo(f"took {artifact}")
    return _load(path)


def _make_precision(plain: Any, out: Path, recipe: Recipe, sets: ImageSets) -> Certificate:
    from engine.precision import to_fp16
    from engine.rewrite import rewrite

    reference, path = out / "model.onnx", out / f"model.{recipe.precision}.onnx"
    model = rewrite(plain, recipe.rewrites or ())
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as folder:
        draft = Path(folder) / path.name  # of the final name, which the certificate has too
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
    """Write the first draft that meets the gate on the calibration images and then on the others; return its certificate."""
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

    from seseg_trt.verify import Subject

    def run(images: Any) -> tuple[Any, Any]:
        p = np.asarray(source.model(images.astype(np.float32), training=False))[..., 0]
        return (p * np.float32(255)).astype(np.uint8), p

    size = int(source.model.input_shape[1])
    description = f"Keras {keras.__version__}, TensorFlow {tf.__version__}, cpu"
    return Subject(source.name, source.sha256, size, description, run, path=source.path)


def _certify_graph(reference: Path, candidate: Path, recipe: Recipe, entries: Sequence[Entry]) -> Certificate:
    from seseg_trt.certificate import Gate
    from seseg_trt.verify import open_subject

    # OpenVINO widens an FP16 graph to FP32; ONNX Runtime rounds every tensor to FP16 as the graph says, so what it gives is nearer to a GPU's.
    backend: Any = "onnxruntime" if recipe.precision == "fp16" else "openvino"
    with open_subject(_artifact(reference)) as one, open_subject(_artifact(candidate), backend=backend) as other:
        return _certify(one, other, entries, Gate(recipe.min_iou, recipe.min_worst_iou))


def _certify(reference: Subject, candidate: Subject, entries: Sequence[Entry], gate: Gate) -> Certificate:
    from seseg_trt.verify import VerifyOptions, certify

    with _progress(len(entries), f"{candidate.name} against {reference.name}") as advance:
        return certify(reference, candidate, entries, gate=gate, options=VerifyOptions(drift_images=4), progress=lambda bad: advance())


def _keep(certificate: Certificate, path: Path) -> None:
    """Write a certificate beside its artifact, whether or not the gate was met."""
    from seseg_trt.certificate import certificate_path

    target = certificate_path(path)
    certificate.write(target)
    iou = certificate.iou
    click.echo(f"{certificate.line()}; worst image {iou['worst']:.4f}, {certificate.data['images']} images: {target}")


# -- small things ----------------------------------------------------------------------------------------------------------------


def _artifact(path: Path) -> Any:
    from seseg_trt.artifact import load_artifact

    return load_artifact(path)


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _save(model: Any, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(model.SerializeToString(deterministic=True))
    shutil.move(part, path)


@contextlib.contextmanager
def _progress(total: int, title: str) -> Iterator[Any]:
    """Give a function that moves a bar on, on a terminal; elsewhere one line says what is done."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        click.echo(f"{title}: {total} images")
    with tqdm(total=total, desc=title, unit="image", disable=None, leave=False) as bar:
        yield bar.update


if __name__ == "__main__":
    from seseg_trt.cli import run

    sys.exit(run(main, name="build_engine.py"))
