"""Pixels on the host's cores in compiled code: the confidence map's resize, the mask colour's blend, PNG's filter and deflate.

It is built where the package is installed and a C++17 compiler is there (``pip install .``). Without it everything works, to the same pixels, with
Pillow, NumPy and zlib-ng, several times as slowly: see :mod:`seseg_trt.masks.host` and :mod:`seseg_trt.codecs.png`, the only ones that
call it. All of it gives the interpreter's lock up.
"""

from __future__ import annotations

from types import ModuleType

MODULE: ModuleType | None
"""The extension module, or None where it was not built or can't be loaded."""
FAILURE = ""
"""Why there is none, in the loader's words."""
try:
    from .. import _native

    MODULE = _native
except ImportError as error:
    MODULE = None
    FAILURE = str(error)
