"""One of several processes that work through run directories together: ``python -m tests.tuning.rank DIR…``.

Importing torch is most of what a process costs, so the tests share one pair for many runs. A directory that
holds a file ``stop-after`` is cancelled after that step, and run again.
"""

import sys
from pathlib import Path
from typing import Any

from training.tuning import processes
from training.tuning.__main__ import main
from training.tuning.run import Run


def work(folder: Path) -> int:
    stop = folder / "stop-after"
    if stop.exists():
        last, end_step = int(stop.read_text()), Run.end_step

        def stopping(run: Run, step: int) -> None:
            if step == last and processes.leads():
                (folder / "cancel").touch()
            end_step(run, step)

        Run.end_step = stopping  # type: ignore[method-assign]
        code = main([str(folder)])
        Run.end_step = end_step  # type: ignore[method-assign]
        assert code == 130, code
    return main([str(folder)])


def stay(*arguments: Any) -> None:
    """Meet, but do not part: the next run needs the others too."""
    processes.dist.barrier()


if __name__ == "__main__":
    processes.leave = stay
    codes = [work(Path(folder)) for folder in sys.argv[1:]]
    sys.exit(max(codes))
