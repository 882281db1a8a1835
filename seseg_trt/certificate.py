"""The certificate: what one artifact's masks cost against another's, bound to the file that it speaks of.

A certificate lies beside its artifact as ``<stem>.certificate.json``: ``model.int8.onnx`` has ``model.int8.certificate.json``. It is
bound to the artifact by SHA-256, so changing either file voids it.

It is no signature. The digest inside it is computed without a secret, and whoever can edit the file can compute it anew: it finds
accidents and careless edits, not forgers. To keep those out, sign the file with a tool made for that, or certify again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .artifact import Artifact, load_artifact
from .errors import GateError, ModelError, UsageError

FORMAT = "seseg_trt certificate 1"
SUFFIX = ".certificate.json"
QUANTISED = ("int8", "fp8")

Status = Literal["valid", "artifact_changed", "certificate_edited", "missing"]


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a candidate has to reach.

    Attributes:
        min_iou: of all pixels pooled, 0..1.
        min_worst_iou: of the worst image, 0..1.
    """

    min_iou: float = 0.999
    min_worst_iou: float = 0.99

    def __post_init__(self) -> None:
        for value in (self.min_iou, self.min_worst_iou):
            if not 0 <= value <= 1:
                raise UsageError(f"a gate of {value} is not within 0 to 1", "an IoU of 1 is perfect agreement")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A comparison of two artifacts, as its JSON has it.

    Attributes:
        data: the whole of it; :func:`seseg_trt.verify.certify` says what the keys mean.
    """

    data: Mapping[str, Any]

    @classmethod
    def seal(cls, content: Mapping[str, Any]) -> Certificate:
        """Make a certificate of its content, adding format and digest."""
        sealed = {"format": FORMAT, **content}
        return cls({**sealed, "digest": _digest(sealed)})

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read a certificate; raise ValueError if the text is none (whether it was edited is another question: :attr:`intact`)."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"it does not say that it is a {FORMAT!r}")
        certificate = cls(data)
        try:
            certificate.line()
            _ = certificate.candidate_sha256
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it lacks {error}") from error
        return certificate

    @property
    def intact(self) -> bool:
        """Whether its content is what its digest was made of."""
        return self.data.get("digest") == _digest({key: value for key, value in self.data.items() if key != "digest"})

    @property
    def passed(self) -> bool:
        """Whether the gate was met when it was made."""
        return self.data["passed"] is True

    @property
    def iou(self) -> Mapping[str, Any]:
        """``pooled``, ``mean``, ``p01``, ``worst``: each 0..1."""
        iou: Mapping[str, Any] = self.data["iou"]
        return iou

    @property
    def candidate_sha256(self) -> str:
        """The file that it speaks of."""
        return str(self.data["candidate"]["sha256"])

    @property
    def reference_name(self) -> str:
        """What the candidate was compared with."""
        return str(self.data["reference"]["name"])

    def failures(self) -> list[str]:
        """Return why the gate was not met, a sentence each; empty where it was."""
        return [str(sentence) for sentence in self.data["gate"]["failures"]]

    def require(self) -> None:
        """Raise GateError unless the gate was met."""
        if not self.passed:
            raise GateError(
                f"{self.data['candidate']['name']} is under its gate: {'; '.join(self.failures())}",
                "use the reference, keep more layers in a higher precision, or set --min-iou and --min-worst-iou to what you can accept",
            )

    def line(self) -> str:
        """Return one line for a summary, on the certificate alone: see :func:`certificate_line` for an artifact's."""
        against = f"IoU {show_iou(self.iou['pooled'])} against {self.reference_name}"
        return f"certified: {against}" if self.passed else f"not certified: {against} is under its gate"

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(self.data, indent=2, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UsageError: it can't be written there.
        """
        write_whole(Path(path), self.to_json(), "the certificate", "--out names another place")


@dataclasses.dataclass(frozen=True)
class CertificateCheck:
    """What an artifact's certificate is worth.

    Attributes:
        status: ``valid`` (made of this very file, and not edited; it may still say that the gate was not met), ``artifact_changed``,
            ``certificate_edited`` (or unreadable), or ``missing``.
        path: where the certificate is, or would be.
        certificate: it, where it can be read.
    """

    status: Status
    path: Path
    certificate: Certificate | None = None

    @property
    def certified(self) -> bool:
        """Whether it is valid and says that the gate was met."""
        return self.status == "valid" and self.certificate is not None and self.certificate.passed

    def line(self) -> str:
        """Return ``certified: IoU ... against ...``, or ``not certified`` with the reason."""
        if self.status == "valid" and self.certificate is not None:
            return self.certificate.line()
        return {
            "artifact_changed": "not certified: the certificate is void, because the model file is not the one it was made of",
            "certificate_edited": "not certified: the certificate is void, because it was edited or damaged",
        }.get(self.status, "not certified")


def certificate_path(artifact: str | Path) -> Path:
    """Return where the certificate of a model file lies: beside it, as ``<stem>.certificate.json``."""
    path = Path(artifact)
    return path.with_name(path.stem + SUFFIX)


def load_certificate(artifact: Artifact | str | Path) -> Certificate | None:
    """Read the certificate beside an artifact, without checking it; None where there is none.

    Raises:
        ModelError: there is a file, but it can't be read or is no certificate.
    """
    path = certificate_path(artifact.path if isinstance(artifact, Artifact) else artifact)
    try:
        return Certificate.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"the certificate {path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no certificate, or is damaged: {error}", "make it again: seseg-trt verify") from error


def check_certificate(artifact: Artifact | str | Path) -> CertificateCheck:
    """Say what the certificate beside an artifact is worth.

    Args:
        artifact: an artifact (its ``sha256`` is taken as it stands), or a path, which is read.

    Raises:
        ModelError: ``artifact`` is a path, and no model file is there.
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
    return CertificateCheck("valid", path, certificate)


def certificate_line(artifact: Artifact) -> str:
    """Return one line for a run's summary: ``certified: IoU 0.9996 against model.onnx``, or ``not certified`` and why."""
    return check_certificate(artifact).line()


def require_certificate(artifact: Artifact, *, min_iou: float | None = None) -> Certificate | None:
    """Refuse an INT8 or FP8 artifact without a valid certificate whose gate was met.

    What an artifact says of its own precision is not enough: a graph that holds quantised nodes counts as one of them.

    Args:
        artifact: any; those of FP32 and FP16 need no certificate.
        min_iou: refuse as well where the certified pooled IoU is under this, whatever gate the certificate was made with.

    Returns:
        The certificate, or None where none is needed and none is valid.

    Raises:
        GateError: with the command that makes a certificate.
    """
    check = check_certificate(artifact)
    certificate = check.certificate if check.status == "valid" else None
    if not is_quantised(artifact):
        return certificate
    hint = f"seseg-trt verify --reference FP32.onnx --candidate {artifact.path} --images DIR"
    if certificate is None or not check.certified:
        raise GateError(f"{artifact} is quantised, and {check.line()}", hint + " makes a certificate")
    if min_iou is not None and certificate.iou["pooled"] < min_iou:
        raise GateError(f"{artifact}: its certified IoU {show_iou(certificate.iou['pooled'])} is under {min_iou}", "use a higher precision")
    return certificate


def is_quantised(artifact: Artifact) -> bool:
    """Whether an artifact computes in INT8 or FP8, by its own word or by its graph's nodes."""
    if artifact.precision in QUANTISED:
        return True
    if artifact.kind != "onnx":
        return False
    import onnx

    graph = onnx.load(str(artifact.path), load_external_data=False).graph
    return any(_is_quantised_operator(node.op_type) for node in graph.node)


def _is_quantised_operator(name: str) -> bool:
    # QuantizeLinear, DequantizeLinear, TRT_FP8QuantizeLinear, QLinearConv, ConvInteger, MatMulInteger, ...
    return "uantizeLinear" in name or name.startswith("QLinear") or name.endswith("Integer")


def show_iou(value: float) -> str:
    """Return an IoU with four digits, cut and not rounded: 0.99996 must not be read as perfect."""
    return f"{value:.12f}"[:6]


def write_whole(path: Path, text: str, what: str, hint: str) -> None:
    """Write a text file so that at every moment its path holds the old file, the new one or none; raise UsageError where it can't be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{what} can't be written to {path}: {error.strerror}", hint) from error


def _digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the canonical JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
