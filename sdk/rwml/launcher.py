"""Starts a process that cannot outlive us: ``python -m`` this module, our process id, the command.

On Linux it asks the kernel for SIGKILL when its parent dies, also by SIGKILL or out of memory, when
no handler of ours can run, and then becomes the command: the setting survives exec. It is done
here and not in a `preexec_fn`, which may deadlock in a process with threads. The parent, to the
kernel, is the thread that started us: start it from a thread that lives as long as it should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Ties this process to its parent and becomes the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the kernel knew
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main()
