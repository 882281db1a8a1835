"""What a run says of itself: the summary, for people and for programs."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

from .. import native
from ..errors import SesegError, StoppedError
from .pipeline import StageReport

ADVICE = {
    "read": "a faster disk, or inputs nearer to this machine, would widen it",
    "decode": "more --workers (while cores are idle) or smaller images would widen it",
    "infer": "the network is the limit: a GPU, or an INT8 model, would widen it",
    "composite": "more --workers would widen it, while cores are idle",
    "encode": "--output_type mask, or --format jpg, would widen it",
    "write": "a faster disk for the outputs would widen it",
}
NOT_BUILT = "; so would seseg_trt's compiled code, which was not built here (`seseg-trt doctor`)"


def _advice(stage: str) -> str:
    return ADVICE.get(stage, "") + (NOT_BUILT if stage in ("composite", "encode") and native.MODULE is None else "")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of a run's inputs. ``inputs == done + skipped + quarantined + left``, and ``left`` is 0 unless it was stopped.

    Attributes:
        inputs: all that the plan found.
        done: masked in this run.
        skipped: masked before, or left out for their names.
        quarantined: can't be masked; ``quarantine.jsonl`` says why.
        left: not reached, since the run was stopped.
        seconds: of streaming, start-up not counted.
        startup_seconds: finding the inputs and loading the network.
        decoded_by: inputs for each decoding library.
        megapixels: of all inputs done.
        stages: how each stage fared.
        device: the lane, in a line.
        model: the artifact, in a line.
        model_sha256: its hash.
        certificate: what its certificate says, in a line.
        output_dir, state_dir: where results and records are.
        workers: what each worker process did, in a line each.
        reasons: how many inputs are quarantined for each reason.
        results: the table of results, or None.
        unpacked: tars that were not written, since not all of their inputs are settled.
        stopped: why the run ended early, or None.
        signal: the number of the signal that stopped it, or None.
    """

    inputs: int
    done: int
    skipped: int
    quarantined: int
    left: int
    seconds: float
    startup_seconds: float
    decoded_by: dict[str, int]
    megapixels: float
    stages: tuple[StageReport, ...]
    device: str
    model: str
    model_sha256: str
    certificate: str
    output_dir: str
    state_dir: Path
    workers: tuple[str, ...] = ()
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    results: str | None = None
    unpacked: int = 0
    stopped: SesegError | None = None
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        if self.signal is not None:
            return 128 + self.signal
        if self.stopped is not None:
            return self.stopped.exit_code
        if self.left:  # whoever ended the run early did not say why
            return StoppedError.exit_code
        return 2 if self.quarantined else 0

    @property
    def rate(self) -> float:
        """Images masked a second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str | None:
        """The stage that does the fewest images a second when nothing else holds it up, or None if nothing was done."""
        at_work = [stage for stage in self.stages if stage.rate]
        return min(at_work, key=lambda stage: stage.rate).name if at_work and self.done else None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as JSON has it."""
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "signal"}
        return shown | {
            "seconds": round(self.seconds, 3),
            "startup_seconds": round(self.startup_seconds, 3),
            "images_per_second": round(self.rate, 2),
            "megapixels": round(self.megapixels, 3),
            "bottleneck": self.bottleneck,
            "stages": {
                stage.name: {
                    "workers": stage.workers,
                    "jobs": stage.jobs,
                    "rate": round(stage.rate, 2),
                    "busy_seconds": round(stage.busy, 3),
                    "starved_seconds": round(stage.starved, 3),
                    "blocked_seconds": round(stage.blocked, 3),
                    "queue_peak": stage.queue_peak,
                }
                for stage in self.stages
            },
            "state_dir": str(self.state_dir),
            "stopped": None if self.stopped is None else self.stopped.message,
            "exit_code": self.exit_code,
        }

    def lines(self) -> list[str]:
        """Return the summary for people, a line each."""
        rate = f", {self.rate:.1f} images/s ({self.megapixels / self.seconds:.1f} MP/s)" if self.done and self.seconds else ""
        lines = [
            f"{self.inputs} inputs = {self.done} done + {self.skipped} skipped + {self.quarantined} quarantined"
            + (f" + {self.left} left" if self.left else ""),
            f"{self.seconds:.1f} s{rate}; start-up {self.startup_seconds:.1f} s; {self.device}",
            f"model: {self.model}" + (f"; {self.certificate}" if self.certificate else ""),
        ]
        if len(self.workers) > 1:
            lines += self.workers
        if self.bottleneck:
            rates = ", ".join(f"{stage.name} {stage.rate:.0f}/s" for stage in self.stages if stage.jobs)
            lines.append(f"each stage alone: {rates}; the bottleneck is {self.bottleneck}: {_advice(self.bottleneck)}")
        if self.quarantined:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
            lines.append(f"quarantined: {counts}; each with its reason: {self.state_dir / 'quarantine.jsonl'}")
        if self.unpacked:
            tars = "1 tar is" if self.unpacked == 1 else f"{self.unpacked} tars are"
            lines.append(f"{tars} not written yet, since not all of their inputs are done; the outputs so far are kept in {self.state_dir}")
        if self.signal is not None:
            lines.append(f"stopped by {signal.Signals(self.signal).name}; the same command goes on from here")
        elif self.stopped is not None:
            lines.append(f"stopped: {self.stopped}")
        if self.results is not None:
            lines.append(f"table: {self.results}")
        lines.append(f"outputs: {self.output_dir}")
        return lines
