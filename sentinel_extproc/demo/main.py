"""The ``demo`` command's entry: its folder, its exit code, and what is said at the end.

Everything heavy is imported once there is something to see.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.signals import Terminated, terminable

_LONGEST_SOCKET_NAME = 24
_SOCKET_PATH_MAX = 107


def run_demo(
    *,
    once: bool,
    port: int = 8080,
    traffic: bool = False,
    environ: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> int:
    """Run the main job on this machine.

    Args:
        once: end after the scenario instead of staying up.
        port: preferred port of the gateway when staying up; another one is taken if it's in use.
        traffic: keep the stand-ins busy with sample calls while it stays up.
        environ: where keys of real services are looked up; ours when omitted.

    Returns:
        The exit code: 0 if every step of the scenario held and everything stopped cleanly, 1 if
        not, 130 or 143 if ended by Ctrl-C or SIGTERM before that was known, 141 if whoever read
        the output went away first, as after ``| head``.
    """
    console = console or Console()
    environ = os.environ if environ is None else environ
    code = 1
    work_dir = Path(tempfile.mkdtemp(prefix="sentinel-"))
    try:
        with terminable():
            _check_socket_room(work_dir)
            with console.status("loading"):
                from sentinel_extproc.demo.session import play
            code = play(
                once=once,
                port=port,
                traffic=traffic,
                environ=environ,
                console=console,
                work_dir=work_dir,
            )
    except ModuleNotFoundError as fault:
        console.print(f"[red]✗[/red] the demo needs more packages ({fault.name} is missing):")
        console.print("pip install '.[demo]' in a checkout", markup=False, highlight=False)
    except StartError as fault:
        console.print("[red]✗[/red] ", end="")
        console.print(str(fault), markup=False, highlight=False)
    except KeyboardInterrupt:
        console.print("interrupted; everything has been stopped")
        code = 130
    except Terminated:
        console.print("ended by SIGTERM; everything has been stopped")
        code = 143
    except SystemExit:
        # Rich's word for a closed pipe. Everything has been stopped on the way here, in silence.
        code = 141
    if code == 1 and any(work_dir.glob("*.log")):
        console.print(f"the logs are kept in {work_dir}", highlight=False)
    else:
        shutil.rmtree(work_dir, ignore_errors=True)
    return code


def _check_socket_room(work_dir: Path) -> None:
    if len(str(work_dir).encode()) + _LONGEST_SOCKET_NAME > _SOCKET_PATH_MAX:
        raise StartError(f"{work_dir} is too long for a Unix socket's path; set TMPDIR")
