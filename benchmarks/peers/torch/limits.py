# mypy: ignore-errors
"""Measure the limits of a GPU with PyTorch: FP16 matrix products, and copies in its memory."""

import platform
import time

from protocol import serve, timed

device = "cpu"


def load(device="cpu", **_):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch has no CUDA device")
    globals()["device"] = device
    return {"seconds": 0.0, "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}}


def limit(what, seconds=1.0):
    """Measure ``f16-N`` or ``f32-N`` (products of N x N matrices, in operations a second) or ``copy`` (bytes read and written a second)."""
    import torch

    kind, _, size = what.partition("-")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if kind == "copy":
        source = torch.ones(1 << (30 if device == "cuda" else 24), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        once, work, unit = lambda: target.copy_(source), 2.0 * source.numel(), "B/s"
    else:
        n, dtype = int(size), {"f16": torch.float16, "f32": torch.float32}[kind]
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)
        once, work, unit = lambda: torch.mm(a, b, out=out), 2.0 * n**3, "op/s"

    def together(count):
        wait()
        start = time.perf_counter()
        timed(once, count)
        wait()
        return time.perf_counter() - start

    together(2)
    count = max(1, round(seconds / (together(4) / 4)))
    return {"seconds": together(count), "count": count, "work": work * count, "unit": unit}


if __name__ == "__main__":
    serve({"load": load, "limit": limit})
