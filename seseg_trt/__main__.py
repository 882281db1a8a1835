"""``python -m seseg_trt`` is the ``seseg-trt`` command."""

from .cli.main import main

main()
