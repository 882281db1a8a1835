"""Verify and evaluate over object stores in a process of its own, and print what came out as JSON.

Its arguments are addresses: of images, of the same in a tar, of their masks, and of one object that is removed after it was listed.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from seseg_trt.options import DecodeOptions
from seseg_trt.quality.evaluate import evaluate
from seseg_trt.quality.images import Undecodable, entries_in, sample
from seseg_trt.quality.verify import VerifyOptions, certify
from tests.seseg_trt.quality.tiny import SIDE, red, subject


def certificate(images: str) -> dict[str, object]:
    """Return the certificate of a network, without its date and what depends on that."""
    shifted = subject(lambda batch: red(batch)[:, ::-1], "mirrored")
    data = certify(subject(red), shifted, images, options=VerifyOptions(drift_images=2)).data
    return {key: value for key, value in data.items() if key not in ("made", "digest")}


def evaluation(images: str, masks: str) -> dict[str, object]:
    """Return the evaluation of a network."""
    return evaluate(subject(red), (images, masks)).as_dict()


def main(images: str, tar: str, masks: str, going: str) -> None:
    """Print the certificates, the evaluations, and what became of the removed object."""
    import fsspec

    (entry,), _ = entries_in([going])
    fsspec.filesystem("s3").rm_file(going)
    gone = sample(entry, DecodeOptions(), SIDE)
    assert isinstance(gone, Undecodable)
    found = {
        "certificates": [certificate(images), certificate(tar)],
        "evaluations": [evaluation(images, masks), evaluation(tar, masks)],
        "gone": dataclasses.asdict(gone),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
