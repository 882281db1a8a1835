"""Compare two models and write a certificate: ``seseg-trt verify``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..models.certificate import Gate
from ..options import BackendName
from ..quality.options import VerifyOptions
from .option_groups import FILES, NETWORK, SCORES, THREADS, Display, Network, display, measuring
from .verb import FILE, SWITCH, Flag, OptionGroup, choice, count, number, place, text, under, verb


def _networks(threads: int | None, **sides: Any) -> tuple[Network, Network]:
    reference, candidate = (Network(sides[f"{side}_device"], sides[f"{side}_backend"], threads) for side in ("reference", "candidate"))
    return reference, candidate


def _side(side: str) -> tuple[Flag, Flag]:
    device = Flag(f"--{side}-device", text("DEVICE"), f"Run the {side} here, as --device of segment.", "auto")
    return device, Flag(f"--{side}-backend", choice(BackendName), f"Force a backend for the {side}.")


def _least(name: str, default: float, of: str) -> Flag:
    return Flag(name, number("0..1", 1), f"Fail when the IoU of {of} is lower.", default)


networks = OptionGroup("networks", _networks, {NETWORK: (*_side("reference"), *_side("candidate"), THREADS)})
gate = OptionGroup("gate", Gate, {SCORES: (_least("--min-iou", 0.999, "all pixels"), _least("--min-worst-iou", 0.99, "any image"))})

_DRIFT = "Measure the drift of decoders and resizes on N images; 0 measures none."
options = measuring(VerifyOptions, Flag("--drift-images", count("N", 0), _DRIFT, 32))

_REFERENCE = "Take this model's masks as right: an .onnx file, a name in the cache, or 'demo'."
_IMAGES = "Compare on these images: a folder, a file, a glob, a tar, an address; may be repeated."


@verb("verify")
@under(
    FILES,
    Flag("--reference", text("MODEL"), _REFERENCE, required=True),
    Flag("--candidate", text("MODEL"), "Certify this model: the same, or a plan.", required=True),
    Flag("--images", place("PATH"), _IMAGES, required=True, multiple=True),
    Flag("--out", FILE, "Write the certificate to FILE.", shown="beside the candidate, <stem>.certificate.json"),
)
@networks
@options
@gate
@under(
    SCORES,
    Flag("--page", FILE, "Write an HTML page with the worst images, blurred."),
    Flag("--images-clear", SWITCH, "Show the images on the page as they are."),
)
@display
def command(
    reference: str,
    candidate: str,
    images: tuple[str, ...],
    out: Path | None,
    networks: tuple[Network, Network],
    options: VerifyOptions,
    gate: Gate,
    page: Path | None,
    images_clear: bool,
    display: Display,
) -> int:
    """Compare the masks of two artifacts on the same images, and write a certificate.

    The certificate is bound to the candidate's bytes: segment shows it, and --require-certificate asks for it. Masks are compared
    at the images' sizes. If the gate is not met, the certificate says so and the exit code is 4.

    \b
    seseg-trt verify --reference model.onnx --candidate model.fp16.onnx --images photos
    seseg-trt verify --reference model.onnx --candidate model.fp16.onnx --images s3://bucket/photos.tar
    """
    from ..models import cache
    from ..models.certificate import certificate_path
    from ..quality.images import entries_in
    from ..quality.verify import compare, make_certificate
    from ..reports.certificate_page import certificate_lines, certificate_page
    from ..reports.html import write_page
    from .console import MeasurementConsole

    artifacts = cache.find_model(reference), cache.find_model(candidate)
    beside = certificate_path(artifacts[1].path)
    same = artifacts[0].sha256 == artifacts[1].sha256
    if same and (out is not None or networks[0] == networks[1]):
        raise UsageError(
            f"{reference} and {candidate} are the same file, which would certify itself",
            "take as --reference the model that the candidate was made from; "
            "without --out, one file is compared on two backends or devices, and no certificate is written",
        )
    target = out or beside
    if not same and target.resolve().is_relative_to(Path(__file__).resolve().parent.parent):
        raise UsageError(f"{target} lies in the installed program, whose certificates ship with it", "name another place with --out")
    entries, refused = entries_in(images, options.decoding)
    with MeasurementConsole(f"{len(entries)} images; loading both networks", quiet=display.quiet) as shown:
        one, other = shown.load(*zip(artifacts, networks, strict=True))
        progress = shown.count(len(entries))

        def advance(undecodable: object) -> None:
            progress.advance(bad=undecodable is not None)

        comparison = compare(one, other, entries, options=options, progress=advance, refused=refused)
    certificate = make_certificate(comparison, gate)
    if page is not None:
        write_page(page, certificate_page(certificate, comparison, blur=not images_clear))
    if not same:
        certificate.write(target)
    if display.as_json:
        click.echo(certificate.to_json(), nl=False)
    if not display.quiet:
        tell = functools.partial(click.secho, err=display.as_json)
        tell("\n".join(certificate_lines(certificate)))
        tell("passed" if certificate.passed else "not passed", fg="green" if certificate.passed else "red", bold=True)
        tell("no certificate: both are one file" if same else f"certificate: {target}")
        if not same and target.resolve() != beside.resolve():
            tell(f"segment looks for it at {beside}")
    certificate.require()
    return 0
