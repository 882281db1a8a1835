"""The peers: what people would use otherwise, each in an environment of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).resolve().parent
Input = Literal["checkpoint", "graph", "plain graph", "none"]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One peer.

    Attributes:
        name: its key in the cases.
        label: what people read.
        script: run in its environment, relative to this package's folder or, for a worker of the harness, to the folder above.
        requirements: its environment file; None: the harness's own environment.
        takes: the checkpoint, the graph that we run, the graph as it was exported (without our rewrites), or nothing.
        python: the version it needs; None: the harness's own.
        pip: the version of pip that goes into its environment first; None: what came with it.
        program: a program it needs on PATH.
    """

    name: str
    label: str
    script: str
    requirements: str | None
    takes: Input = "graph"
    python: str | None = None
    pip: str | None = None
    program: str | None = None


PEERS = {
    peer.name: peer
    for peer in (
        Peer("original", "the original program", "original/worker.py", "original/requirements.txt", "checkpoint", "3.6", "21.3.1"),
        Peer("keras", "its port to today's Keras", "keras/worker.py", "keras/requirements.txt", "checkpoint"),
        Peer(
            "onnxruntime", "ONNX Runtime and Pillow, a plain loop", "onnxruntime/worker.py", "onnxruntime/requirements.txt", "plain graph"
        ),
        Peer("onnxruntime-gpu", "ONNX Runtime on the GPU and Pillow", "onnxruntime/worker.py", "onnxruntime/gpu.txt", "plain graph"),
        Peer("benchmark_app", "OpenVINO's benchmark_app", "benchmark_app/worker.py", "benchmark_app/requirements.txt"),
        Peer("torch", "PyTorch, channels-last", "torch/worker.py", "torch/requirements.txt", "plain graph"),
        Peer("trtexec", "trtexec", "trtexec/worker.py", None, program="trtexec"),
        Peer("openblas", "NumPy's matrix product", "../workers/gemm.py", None, "none"),
        Peer("mkl", "MKL's matrix product", "../workers/gemm.py", "mkl/requirements.txt", "none"),
        Peer("gpu-limits", "cuBLAS's matrix product, by PyTorch", "torch/limits.py", "torch/requirements.txt", "none"),
    )
}
