"""The command line: train in a run directory, list the methods, or look at a run's data.

``python -m training.tuning RUN_DIR`` trains, or resumes. ``python -m training.tuning methods [--json]`` lists
the methods. ``python -m training.tuning inspect RUN_DIR [--json]`` writes RUN_DIR/inspect.json: the data as
the trainer will see it. Exit codes: 0 done, 1 bad input, 70 an unexpected error, 74 the disk is full,
75 locked, 130 cancelled, 143 interrupted.
"""

import argparse
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from training.tuning import errors, launching
from training.tuning.quiet import quiet_libraries
from training.tuning.registry import METHODS
from training.tuning.rundir import RunDir, StopRequest, die_with_parent, write_json

logger = logging.getLogger("training.tuning")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m training.tuning", description=__doc__)
    if arguments[:1] == ["methods"]:
        parser.add_argument("--json", action="store_true", help="with the schema of each method's config")
        return list_methods(as_json=parser.parse_args(arguments[1:]).json)
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="a folder with run.json and data/train.jsonl"
    )
    if arguments[:1] == ["inspect"]:
        parser.add_argument("--json", action="store_true", help="print the preview too")
        options = parser.parse_args(arguments[1:])
        return inspect(options.run_dir, as_json=options.json)
    return train(parser.parse_args(arguments).run_dir)


def list_methods(*, as_json: bool) -> int:
    """Print what there is."""
    if as_json:
        print(json.dumps([method.describe() for method in METHODS], indent=2))
    else:
        for method in METHODS:
            print(f"{method.name:20} {method.modality:6} {method.title}: {method.summary}")
    return errors.EXIT_DONE


def inspect(path: Path, *, as_json: bool) -> int:
    """Write, and print, the data of a run as its trainer will see it."""
    quiet_libraries()
    try:
        from training.tuning.run import Run

        run = Run(existing(path))
        preview = run.method.load("inspect")(run)
    except errors.BadInput as error:
        print(error, file=sys.stderr)
        return errors.EXIT_BAD_INPUT
    write_json(run.dir.path / "inspect.json", preview)
    if as_json:
        print(json.dumps(preview, indent=2, ensure_ascii=False))
    return errors.EXIT_DONE


def train(path: Path) -> int:
    """Train or resume in a run directory, and say in ``state.json`` how it ended."""
    quiet_libraries()
    try:
        directory = existing(path)
        count = launching.processes_asked(directory)
        if count > 1 and launching.world_size() == 1:
            return launching.launch(directory, count)
        with directory.lock():
            return _train_locked(directory)
    except errors.Locked as error:
        print(error, file=sys.stderr)
        return errors.EXIT_LOCKED
    except errors.BadInput as error:
        print(error, file=sys.stderr)
        return errors.EXIT_BAD_INPUT
    except OSError as error:
        if errors.is_disk_full(error):
            return _disk_full(directory, error)
        raise


def _train_locked(directory: RunDir) -> int:
    if directory.finished:
        if directory.writes:
            print(f"{directory.path}: finished before; the result is in {directory.result}")
        directory.set_state(**directory.read_progress(), status="done")
        return errors.EXIT_DONE
    try:
        if directory.writes:
            directory.cancel_file.unlink(missing_ok=True)
            directory.remove_drafts()
            log_to(directory.log_file)
        directory.set_state(**directory.read_progress(), status="running")
        with directory.heartbeat():
            _run_method(directory)
    except errors.Stopped as stop:
        logger.info("%s; run again to resume", stop.status)
        directory.set_state(status=stop.status)
        return {"cancelled": errors.EXIT_CANCELLED, "interrupted": errors.EXIT_INTERRUPTED}[stop.status]
    except errors.BadInput as error:
        print(error, file=sys.stderr)
        logger.error("%s", error)
        directory.set_state(status="failed", error=str(error))
        _tell(directory, error)
        return errors.EXIT_BAD_INPUT
    except Exception as error:
        if errors.is_disk_full(error):
            return _disk_full(directory, error)
        logger.exception("failed")
        print(f"{type(error).__name__}: {error}; the traceback is in {directory.log_file}", file=sys.stderr)
        directory.set_state(status="failed", error=f"{type(error).__name__}: {error}")
        _tell(directory, error)
        return errors.EXIT_UNEXPECTED
    logger.info("done")
    directory.set_state(status="done")
    return errors.EXIT_DONE


def _disk_full(directory: RunDir, error: Exception) -> int:
    """Say so as far as there is room for it; the exit code says it in any case."""
    with contextlib.suppress(OSError):
        directory.remove_drafts()
        logger.error("%s", error)
        directory.set_state(status="failed", error=f"The disk is full: {error}. Free some and run again.")
        print(f"The disk is full: {error}; run again to resume", file=sys.stderr)
    return errors.EXIT_DISK_FULL


def _tell(directory: RunDir, error: Exception) -> None:
    if not directory.writes:
        launching.tell_failure(directory, error)


def _run_method(directory: RunDir) -> None:
    stop = StopRequest()

    def ask(signum: int, frame: object) -> None:
        stop.signalled = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        from training.tuning import processes
        from training.tuning.run import Run

        processes.join()
        run = Run(directory, stop=stop)
        logger.info("%s on %s, seed %s, in %s", run.method.name, run.device, run.seed, directory.path)
        status = "failed"
        try:
            run.method.load("train")(run)
            status = "done"
        except errors.Stopped as stop:
            status = stop.status
            raise
        finally:
            run.close(status)
            if status != "failed":
                processes.leave()  # no process ends before the first has saved
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def existing(path: Path) -> RunDir:
    """The run directory, which must be one."""
    if not path.is_dir():
        raise errors.BadInput("there is no such run directory", file=path)
    return RunDir(path, writes=launching.leads())


def log_to(path: Path) -> None:
    """Send the log to a file, with times."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
