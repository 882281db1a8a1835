# mypy: ignore-errors
"""Measure the limits of the CPU: matrix products in FP32 and 8-bit integers, and memory copies. It needs NumPy, and MKL if asked for it."""

import ctypes
import glob
import os
import platform
import sys
import threading
import time

os.environ["KMP_BLOCKTIME"] = "0"  # else MKL's threads would spin on into the next measurement

import numpy as np

if __package__:
    from .protocol import serve, timed
else:
    from protocol import serve, timed

ROW_MAJOR, NO_TRANSPOSE, FIXED_OFFSET = 101, 111, 173
mkl = None


def load(what="", **_):
    global mkl
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    blas = np.show_config("dicts")["Build Dependencies"]["blas"]
    versions["numpy_blas"] = f"{blas['name']} {blas['version']}"
    if what == "mkl":
        found = sorted(glob.glob(os.path.join(sys.prefix, "lib", "libmkl_rt.so*")))
        if not found:
            raise RuntimeError("libmkl_rt is not in this environment")
        os.environ["LD_LIBRARY_PATH"] = os.path.dirname(found[0])
        mkl = ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)
        mkl.MKL_Set_Num_Threads(ctypes.c_int(len(os.sched_getaffinity(0))))
        text = ctypes.create_string_buffer(200)
        mkl.MKL_Get_Version_String(text, ctypes.c_int(200))
        versions["mkl"] = text.value.decode().strip()
    return {"seconds": 0.0, "versions": versions}


def limit(what, seconds=1.0):
    """Measure ``f32-N`` or ``s8-N`` (products of N x N matrices, in operations a second) or ``copy`` (bytes read and written a second)."""
    kind, _, size = what.partition("-")
    if kind == "copy":
        return copy(seconds)
    n = int(size)
    product = {"f32": mkl_f32 if mkl else numpy_f32, "s8": mkl_s8}[kind](n)
    product()
    count = max(1, round(seconds / timed(product, 1)))
    return {"seconds": timed(product, count), "count": count, "work": 2.0 * n**3 * count, "unit": "op/s"}


def numpy_f32(n):
    a, b = (np.random.default_rng(i).random((n, n), np.float32) for i in (0, 1))
    out = np.empty((n, n), np.float32)
    return lambda: np.matmul(a, b, out=out)


def mkl_f32(n):
    a, b = (np.random.default_rng(i).random((n, n), np.float32) for i in (0, 1))
    out = np.empty((n, n), np.float32)
    side, one, zero = ctypes.c_int(n), ctypes.c_float(1), ctypes.c_float(0)
    pa, pb, pc = (ctypes.c_void_p(x.ctypes.data) for x in (a, b, out))
    keep = (a, b, out)

    def product():
        mkl.cblas_sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, side, side, side, one, pa, side, pb, side, zero, pc, side)
        return keep

    product()
    if not np.allclose(out[:4], a[:4] @ b, rtol=1e-3):
        raise RuntimeError("MKL's product is wrong")
    return product


def mkl_s8(n):
    # In row-major order MKL takes the unsigned matrix first.
    a = np.random.default_rng(0).integers(0, 8, (n, n), np.uint8)
    b = np.random.default_rng(1).integers(-4, 4, (n, n), np.int8)
    out, offset = np.zeros((n, n), np.int32), np.zeros(1, np.int32)
    side, one, zero, none = ctypes.c_int(n), ctypes.c_float(1), ctypes.c_float(0), ctypes.c_byte(0)
    pa, pb, pc, po = (ctypes.c_void_p(x.ctypes.data) for x in (a, b, out, offset))
    keep = (a, b, out, offset)

    def product():
        mkl.cblas_gemm_s8u8s32(
            ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, FIXED_OFFSET, side, side, side, one, pa, side, none, pb, side, none, zero, pc, side, po
        )
        return keep

    product()
    if not np.array_equal(out[:4], a[:4].astype(np.int32) @ b.astype(np.int32)):
        raise RuntimeError("MKL's product is wrong")
    return product


def copy(seconds, size=1 << 28):
    """Copy arrays far larger than the caches, with a thread on each core; each byte counts as one read and one written."""
    cores = len(os.sched_getaffinity(0))
    pairs = [(np.ones(size // cores, np.uint8), np.zeros(size // cores, np.uint8)) for _ in range(cores)]
    counts, start = [0] * cores, time.perf_counter()

    def work(index):
        source, target = pairs[index]
        while time.perf_counter() - start < seconds:
            np.copyto(target, source)
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - start, "count": sum(counts), "work": 2.0 * sum(counts) * (size // cores), "unit": "B/s"}


if __name__ == "__main__":
    serve({"load": load, "limit": limit})
