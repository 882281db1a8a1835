"""``python -m seseg_trt`` is the ``seseg-trt`` command."""

from .cli import main

main()
