# mypy: ignore-errors
# ruff: noqa: UP032
"""Implement the worker's side of the protocol: a JSON object a line, requests on standard input, answers on standard output.

It also runs under Python 3.6, which the original program's libraries need.
"""

import json
import os
import resource
import sys
import time
import traceback


def serve(handlers: dict) -> None:
    """Answer requests until standard input ends.

    Args:
        handlers: for each value of a request's ``do``, a function that takes the request's other fields as keywords and returns a
            dict, the answer. ``cpu_seconds`` (user and system time of all threads) and ``peak_rss`` (the peak memory of the process
            so far, in bytes) are added to it. An exception becomes an answer with ``error``.
    """
    # Answers go to a copy of standard output; what libraries print to standard output goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        before = os.times()
        try:
            answer = handlers[request.pop("do")](**request) or {}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": "{}: {}".format(type(error).__name__, error)}
        after = os.times()
        answer["cpu_seconds"] = sum(after[:4]) - sum(before[:4])
        answer["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed(function: object, count: int) -> float:
    """Call ``function`` ``count`` times; return the total seconds."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return time.perf_counter() - start
