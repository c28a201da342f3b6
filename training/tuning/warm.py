"""A process that has loaded what runs need, and forks one for each run, so that a run starts at once.

``python -m training.tuning.warm [MODULE ...]`` imports the modules (by default those that every method needs)
and is spoken to over a socket, its standard input, in lines of JSON. ``{"ready": true}`` comes first; then
``{"folder": …, "output": …}`` is answered with ``{"pid": …}``, and once that process has ended, with
``{"pid": …, "code": …}``, negative for a signal. The process is what ``python -m training.tuning .`` would be
in that folder: a process group of its own, its output in the file. It is killed when this one ends, which
ends with whoever holds the other end of the socket (``warm_start.py``).

Nothing is computed here: no thread of a library may run and no device be touched before the fork.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from training.tuning.quiet import quiet_libraries
from training.tuning.rundir import die_with_parent

SETTLE = 20.0  # seconds until the libraries are loaded: sites start other things first
# They bring torch and transformers along; the second ones diffusers, which imports peft: not always fit to be
# loaded before a fork.
MODULES = ("training.tuning.methods.dpo", "training.tuning.methods.grpo")
WITH_PEFT = ("peft", "training.tuning.methods.flow_grpo")


def load(modules: Sequence[str]) -> None:
    """Import what runs need. What is loaded stays: the garbage collector need not copy its pages."""
    quiet_libraries()
    # Asking a driver how many devices there are leaves a forked process without any; NVML does not.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    harmless = WITH_PEFT if modules == MODULES and _peft_is_harmless() else ()
    for name in (*modules, *harmless):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _peft_is_harmless() -> bool:
    """Peft imports bitsandbytes where it is installed, which opens CUDA devices where there are some."""
    import torch

    return torch.version.cuda is None or importlib.util.find_spec("bitsandbytes") is None


class Server:
    """One end of the socket, and the processes that were forked."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._asked = b""
        self._running: set[int] = set()
        self._wake, self._child_ended = os.pipe()
        for end in (self._wake, self._child_ended):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._child_ended)
        # What asks a whole site to stop is for the runs, which save; this process ends after the worker.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def settle(self, seconds: float) -> None:
        """Wait, unless the other end is closed or says something."""
        select.select([self._line], [], [], seconds)

    def tell(self, **what: Any) -> None:
        """One line to the other end."""
        self._line.sendall(json.dumps(what).encode() + b"\n")

    def serve(self) -> dict[str, Any] | None:
        """Fork for every request. Returns it in the forked process; here None, when the line is closed."""
        both: list[Any] = [self._line, self._wake]
        while True:
            ready, _, _ = select.select(both, [], [])
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._see_off()
            if self._line not in ready:
                continue
            said = self._line.recv(65536)
            if not said:
                return None
            *whole, self._asked = (self._asked + said).split(b"\n")
            for line in whole:
                here = os.getpid()
                if (pid := os.fork()) == 0:
                    self._become_run(parent=here)
                    request: dict[str, Any] = json.loads(line)
                    return request
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.setpgid(pid, pid)  # whichever is first: who is told the pid may kill its group
                self._running.add(pid)
                self.tell(pid=pid)

    def _see_off(self) -> None:
        for pid in sorted(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._running.remove(pid)
                self.tell(pid=pid, code=os.waitstatus_to_exitcode(status))

    def _become_run(self, *, parent: int) -> None:
        """Of the forked process: nothing that it has from this one but its modules."""
        die_with_parent()
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._line.close()
        os.close(self._wake)
        os.close(self._child_ended)


def work(request: dict[str, Any]) -> int:
    """Train in the folder, with everything that is printed in the output. Returns the exit code."""
    os.chdir(request["folder"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(output)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():  # some library did; a fork cannot use devices then
        os.execv(sys.executable, [sys.executable, "-P", "-m", "training.tuning", "."])  # noqa: S606
    from training.tuning.__main__ import main as train

    return train(["."])


def main(modules: Sequence[str]) -> int:
    """Load, serve, and in a forked process train."""
    die_with_parent()
    server = Server(socket.socket(fileno=os.dup(0)))
    if not modules:
        server.settle(SETTLE)
    load(modules or MODULES)
    server.tell(ready=True)
    request = server.serve()
    return 0 if request is None else work(request)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
