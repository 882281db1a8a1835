"""Read, write and check certificates: measurements of how well a candidate artifact's masks agree with a reference's.

A certificate is stored beside its artifact as ``<stem>.certificate.json``: ``model.int8.onnx`` has ``model.int8.certificate.json``. It
contains the artifact's SHA-256 and a digest of itself, so changing either file voids it.

A certificate is not a signature. Anyone who can edit the file can compute a new digest: it detects accidents and careless edits, not
forgery. Against forgery, sign the file with a signing tool, or certify again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import GateError, ModelError, UsageError
from ..storage.atomic import atomic_write, unwritable
from .artifact import Artifact, load_artifact

FORMAT = "seseg_trt certificate 1"
SUFFIX = ".certificate.json"
QUANTISED = ("int8", "fp8")

Status = Literal["valid", "artifact_changed", "certificate_edited", "measured_against_itself", "missing"]


@dataclasses.dataclass(frozen=True)
class Gate:
    """The agreement that a candidate must reach.

    Attributes:
        min_iou: the lowest allowed IoU of all pixels pooled, 0..1.
        min_worst_iou: the lowest allowed IoU of a single image, 0..1.

    Raises:
        UsageError: a value is outside 0..1.
    """

    min_iou: float = 0.999
    min_worst_iou: float = 0.99

    def __post_init__(self) -> None:
        for value in (self.min_iou, self.min_worst_iou):
            if not 0 <= value <= 1:
                raise UsageError(f"a gate of {value} is not within 0 to 1", "an IoU of 1 is perfect agreement")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A comparison of two artifacts.

    Attributes:
        data: the JSON object; :func:`seseg_trt.quality.verify.certify` documents its keys.
    """

    data: Mapping[str, Any]

    @classmethod
    def seal(cls, content: Mapping[str, Any]) -> Certificate:
        """Make a certificate from its content by adding format and digest."""
        sealed = {"format": FORMAT, **content}
        return cls({**sealed, "digest": _digest(sealed)})

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Parse a certificate. :attr:`intact` says whether it was edited.

        Raises:
            ValueError: the text is not a certificate.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        certificate = cls(data)
        try:
            certificate.line()
            certificate.failures()
            _ = certificate.candidate_sha256
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it lacks {error}") from error
        return certificate

    @property
    def intact(self) -> bool:
        """Whether the digest matches the content."""
        return self.data.get("digest") == _digest({key: value for key, value in self.data.items() if key != "digest"})

    @property
    def passed(self) -> bool:
        """Whether the candidate met its gate, by its word and by its figures."""
        return self.data["passed"] is True and not self.failures()

    @property
    def iou(self) -> Mapping[str, Any]:
        """The IoU: ``pooled`` over all pixels, and the ``mean``, first percentile (``p01``) and ``worst`` of the images; each 0..1."""
        iou: Mapping[str, Any] = self.data["iou"]
        return iou

    @property
    def candidate_sha256(self) -> str:
        """The SHA-256 (hex) of the certified file."""
        return str(self.data["candidate"]["sha256"])

    @property
    def reference_name(self) -> str:
        """The name of the artifact that the candidate was compared with."""
        return str(self.data["reference"]["name"])

    def failures(self) -> list[str]:
        """Return the reasons why the gate was not met, one sentence each; empty if it was met."""
        gate, found = self.data["gate"], [str(sentence) for sentence in self.data["gate"]["failures"]]
        if found or self.data["passed"] is not True:
            return found or ["it does not say why"]
        for figure, least in (("pooled", "min_iou"), ("worst", "min_worst_iou")):
            if not float(self.iou[figure]) >= float(gate[least]):
                found.append(f"the {figure} IoU is {self.iou[figure]}, under {gate[least]}")
        return found

    def require(self) -> None:
        """Raise GateError unless the gate was met."""
        if not self.passed:
            raise GateError(
                f"{self.data['candidate']['name']} is under its gate: {'; '.join(self.failures())}",
                "use the reference, keep more layers in a higher precision, or set --min-iou and --min-worst-iou to what you can accept",
            )

    def line(self) -> str:
        """Return a one-line summary. It does not check the artifact, as :func:`certificate_line` does."""
        against = f"IoU {show_iou(self.iou['pooled'])} against {self.reference_name}"
        return f"certified: {against}" if self.passed else f"not certified: {against} is under its gate"

    def to_json(self) -> str:
        """Return the JSON text of the certificate file."""
        return json.dumps(self.data, indent=2, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Write the certificate file atomically.

        Raises:
            UsageError: the file can't be written.
        """
        with unwritable("the certificate", path, "--out names another place"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(self.to_json().encode())


@dataclasses.dataclass(frozen=True)
class CertificateCheck:
    """The result of checking the certificate beside an artifact.

    Attributes:
        status: ``valid``: it is for this file and unedited (the gate may still not have been met); ``artifact_changed``: it is for another
            file; ``certificate_edited``: it was edited or can't be read; ``measured_against_itself``: its reference is the very file; ``missing``: there is none.
        path: where the certificate is, or would be.
        certificate: the certificate, or None if it is missing or can't be read.
    """

    status: Status
    path: Path
    certificate: Certificate | None = None

    @property
    def certified(self) -> bool:
        """Whether the certificate is valid and the gate was met."""
        return self.status == "valid" and self.certificate is not None and self.certificate.passed

    def line(self) -> str:
        """Return ``certified: IoU ... against ...``, or ``not certified`` with the reason if there is one."""
        if self.status == "valid" and self.certificate is not None:
            return self.certificate.line()
        return {
            "artifact_changed": "not certified: the certificate is void, because it was made for another model file",
            "certificate_edited": "not certified: the certificate is void, because it was edited or damaged",
            "measured_against_itself": "not certified: the certificate is void, because the model was compared with itself",
        }.get(self.status, "not certified")


def certificate_path(artifact: str | Path) -> Path:
    """Return the path of a model file's certificate: ``<stem>.certificate.json`` in the same folder."""
    path = Path(artifact)
    return path.with_name(path.stem + SUFFIX)


def load_certificate(artifact: Artifact | str | Path) -> Certificate | None:
    """Read the certificate beside an artifact without checking it; return None if there is none.

    Raises:
        ModelError: the file can't be read, or is not a certificate.
    """
    path = certificate_path(artifact.path if isinstance(artifact, Artifact) else artifact)
    try:
        return Certificate.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"the certificate {path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a certificate, or is damaged: {error}", "make it again: seseg-trt verify") from error


def check_certificate(artifact: Artifact | str | Path) -> CertificateCheck:
    """Check the certificate beside an artifact.

    Args:
        artifact: an artifact, whose ``sha256`` is trusted, or a path, whose file is hashed.

    Raises:
        ModelError: ``artifact`` is a path without a model file.
    """
    if not isinstance(artifact, Artifact):
        artifact = load_artifact(artifact)
    path = certificate_path(artifact.path)
    try:
        certificate = load_certificate(artifact)
    except ModelError:
        return CertificateCheck("certificate_edited", path)
    if certificate is None:
        return CertificateCheck("missing", path)
    if not certificate.intact:
        return CertificateCheck("certificate_edited", path, certificate)
    if certificate.candidate_sha256 != artifact.sha256:
        return CertificateCheck("artifact_changed", path, certificate)
    if certificate.data["reference"].get("sha256") == artifact.sha256:
        return CertificateCheck("measured_against_itself", path, certificate)
    return CertificateCheck("valid", path, certificate)


def certificate_line(artifact: Artifact) -> str:
    """Check an artifact's certificate; return ``certified: IoU 0.9996 against model.onnx``, or ``not certified`` with the reason."""
    return check_certificate(artifact).line()


def require_certificate(artifact: Artifact, *, min_iou: float | None = None) -> Certificate | None:
    """Refuse an INT8 or FP8 artifact without a valid certificate whose gate was met.

    A graph with quantised nodes counts as INT8, whatever precision its metadata states.

    Args:
        artifact: any artifact. FP32 and FP16 need no certificate.
        min_iou: also refuse a certificate whose pooled IoU is lower, whatever gate it was made with.

    Returns:
        The valid certificate, or None if there is none and none is needed.

    Raises:
        GateError: the artifact is refused. The message has the command that makes a certificate.
    """
    check = check_certificate(artifact)
    certificate = check.certificate if check.status == "valid" else None
    if not is_quantised(artifact):
        return certificate
    hint = f"seseg-trt verify --reference FP32.onnx --candidate {artifact.path} --images DIR"
    if certificate is None or not check.certified:
        reasons = "" if certificate is None else f": {'; '.join(certificate.failures())}"
        raise GateError(f"{artifact} is quantised, and {check.line()}{reasons}", hint + " makes a certificate")
    if min_iou is not None and certificate.iou["pooled"] < min_iou:
        raise GateError(f"{artifact}: its certified IoU {show_iou(certificate.iou['pooled'])} is under {min_iou}", "use a higher precision")
    return certificate


def is_quantised(artifact: Artifact) -> bool:
    """Return whether an artifact computes in INT8 or FP8, according to its metadata or its graph's nodes."""
    if artifact.precision in QUANTISED:
        return True
    if artifact.kind != "onnx":
        return False
    import onnx

    # QuantizeLinear, DequantizeLinear, TRT_FP8QuantizeLinear, QLinearConv, QGemm, ConvInteger, MatMulInteger, MatMulNBits, ...
    operators = re.compile("uantizeLinear|^Q[A-Z]|Integer|NBits")
    model = onnx.load(str(artifact.path), load_external_data=False)
    waiting = [model.graph, *model.functions]
    while waiting:
        part = waiting.pop()
        for node in part.node:
            if operators.search(node.op_type):
                return True
            waiting += [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) if graph.node]
    return False


def show_iou(value: float) -> str:
    """Format an IoU with four decimals, truncated, so that 0.99996 does not read as a perfect 1.0000."""
    return f"{value:.12f}"[:6]


def _digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the content as canonical JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
