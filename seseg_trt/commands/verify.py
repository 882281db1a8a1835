"""``seseg-trt verify``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import DEFAULT_MAX_PIXELS, DecodeOptions

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..certificate import Certificate, Gate
    from ..verify import VerifyOptions

BACKENDS = click.Choice(["openvino", "onnxruntime", "tensorrt", "rtx"])


@click.command(name="verify", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--reference", required=True, help="What is right: an .onnx file, a name in the cache, or 'demo'.")
@click.option("--candidate", required=True, help="What the certificate speaks of: the same, or a plan.")
@click.option("--images", required=True, multiple=True, type=click.Path(), help="A folder of images (a file, a glob); may be repeated.")
@click.option("--threshold", type=click.IntRange(0, 100), default=50, show_default=True, help="Of the masks that are compared, in percent.")
@click.option("--min-iou", type=click.FloatRange(0, 1), default=0.999, show_default=True, help="The gate: of all pixels pooled.")
@click.option("--min-worst-iou", type=click.FloatRange(0, 1), default=0.99, show_default=True, help="The gate: of the worst image.")
@click.option("--out", type=click.Path(path_type=Path), help="The certificate. Default: <stem>.certificate.json beside the candidate.")
@click.option("--page", type=click.Path(path_type=Path), help="Write an HTML page with the worst images, blurred.")
@click.option("--images-clear", is_flag=True, help="Show the images on the page as they are.")
@click.option("--reference-backend", type=BACKENDS, help="Force the reference's backend.")
@click.option("--candidate-backend", type=BACKENDS, help="Force the candidate's backend.")
@click.option("--reference-device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--candidate-device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="Cores for a network on a CPU. Default: all.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images that go through a network at once.")
@click.option(
    "--drift-images", type=click.IntRange(0), default=32, show_default=True, help="Measure decoder and resize on so many; 0: not."
)
@click.option("--exif-orientation/--no-exif-orientation", default=True, show_default=True, help="Turn images as their EXIF data say.")
@click.option("--max-pixels", type=click.IntRange(1), default=DEFAULT_MAX_PIXELS, show_default=True, help="Leave larger images out.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate on standard output, alone there.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no table; errors are still shown.")
def command(
    reference: str,
    candidate: str,
    images: tuple[str, ...],
    threshold: int,
    min_iou: float,
    min_worst_iou: float,
    out: Path | None,
    page: Path | None,
    images_clear: bool,
    reference_backend: Any,
    candidate_backend: Any,
    reference_device: str,
    candidate_device: str,
    threads: int | None,
    batch: int,
    drift_images: int,
    exif_orientation: bool,
    max_pixels: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare the masks of two artifacts on the same images, and write a certificate.

    The certificate is bound to the candidate's bytes: segment shows it, and --require-certificate asks for it. Masks are compared
    at the images' sizes. Where the gate is not met, the certificate says so and the exit code is 4.

    \b
    seseg-trt verify --reference model.onnx --candidate model.fp16.onnx --images photos
    """
    from .. import cache
    from ..certificate import Gate, certificate_path
    from ..verify import VerifyOptions

    gate = Gate(min_iou, min_worst_iou)
    decoding = DecodeOptions(exif_orientation=exif_orientation, max_pixels=max_pixels)
    options = VerifyOptions(threshold=threshold, decoding=decoding, batch=batch, drift_images=drift_images)
    artifacts = cache.find_model(reference), cache.find_model(candidate)
    target = out or certificate_path(artifacts[1].path)
    choices = ((reference_backend, reference_device), (candidate_backend, candidate_device))
    certificate = _certify(artifacts, choices, threads, images, gate, options, page, images_clear, quiet)
    certificate.write(target)
    if as_json:
        click.echo(certificate.to_json(), nl=False)
    if not quiet:
        _show(certificate, target, beside=certificate_path(artifacts[1].path), err=as_json)
    certificate.require()
    return 0


def _certify(
    artifacts: tuple[Artifact, Artifact],
    choices: tuple[tuple[Any, str], tuple[Any, str]],
    threads: int | None,
    images: tuple[str, ...],
    gate: Gate,
    options: VerifyOptions,
    page: Path | None,
    clear: bool,
    quiet: bool,
) -> Certificate:
    from ..console import Progress, everything_to
    from ..errors import UsageError
    from ..quality.images import entries_in
    from ..verify import certify, open_subject

    entries, refused = entries_in(images)
    if not entries:
        raise UsageError(f"there is no image in {', '.join(images)}", "give --images a folder of images")
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(everything_to(Path("/dev/null")))
        if not quiet:
            terminal.write(f"{len(entries)} images; loading both networks\n")
            terminal.flush()
        reference, candidate = (
            stack.enter_context(open_subject(artifact, backend=backend, device=device, threads=threads))
            for artifact, (backend, device) in zip(artifacts, choices, strict=True)
        )
        progress = Progress(terminal, len(entries), quiet=quiet)
        stack.callback(progress.close)
        return certify(
            reference,
            candidate,
            entries,
            gate=gate,
            options=options,
            page=page,
            clear=clear,
            progress=lambda bad: progress.advance(bad=bad is not None),
            refused=refused,
        )


def _show(certificate: Certificate, target: Path, *, beside: Path, err: bool) -> None:
    from ..quality.certificate_page import certificate_lines

    for line in certificate_lines(certificate):
        click.echo(line, err=err)
    if certificate.passed:
        click.secho("passed", fg="green", bold=True, err=err)
    else:
        click.secho("not passed", fg="red", bold=True, err=err)
    click.echo(f"certificate: {target}", err=err)
    if target.resolve() != beside.resolve():
        click.echo(f"segment looks for it at {beside}", err=err)
