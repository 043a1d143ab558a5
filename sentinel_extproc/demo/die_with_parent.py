"""Run as a script: become another program that is told to stop when its parent dies.

``python -I -S die_with_parent.py PARENT_PID PROGRAM ARG...``

A launcher rather than ``preexec_fn``, which runs Python between fork and exec in a process with
threads and can deadlock there (the gRPC and uvicorn threads of the demo hold locks).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the parent-death signal, make sure the parent was still there, and exec."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have died before the call above: then no signal ever comes.
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 - replacing this process is the point


if __name__ == "__main__":
    main()
