"""Load the compiled extension: resizing of confidence maps, blending of the mask colour, and PNG filtering and compression.

Installing the package (``pip install .``) builds the extension if there is a C++17 compiler. Without it, Pillow, NumPy and zlib-ng do the
same work several times slower, with the same pixels. Only :mod:`seseg_trt.masks.host` and :mod:`seseg_trt.codecs.png` call the
extension. Its functions release the GIL.
"""

from __future__ import annotations

from types import ModuleType

MODULE: ModuleType | None
"""The extension module, or None if it was not built or can't be loaded."""
FAILURE = ""
"""The import error's message if ``MODULE`` is None."""
try:
    from . import _native

    MODULE = _native
except ImportError as error:
    MODULE = None
    FAILURE = str(error)
