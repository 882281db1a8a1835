"""Define the peers: the programs and libraries that seseg_trt is compared with, each in its own environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).resolve().parent
Input = Literal["checkpoint", "graph", "plain graph", "none"]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A program or library to compare with.

    Attributes:
        name: its name in cases.
        label: its name for people.
        script: its worker, relative to the folder of this package.
        requirements: its requirements file, relative to the folder of this package; None: it runs in the harness's environment.
        takes: what it loads: the checkpoint, our graph, the graph as exported (``plain graph``: without our rewrites), or nothing.
        python: the Python version that it needs; None: the harness's.
        pip: the pip version to install first; None: the one that comes with Python.
        program: a program that it needs on PATH, or None.
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
        Peer("keras", "the original, ported to today's Keras", "keras/worker.py", "keras/requirements.txt", "checkpoint"),
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
