"""A trainer that keeps the run-directory contract without learning anything, and can misbehave on purpose.

`python fake_trainer.py RUN_DIR`, with the environment variables FAKE_STEPS, FAKE_SECONDS (a step) and
FAKE_MODE: dies (SIGKILL once, in the middle), always-dies, stalls, deaf (to the cancel file and SIGTERM),
bad-input, breaks (an unexpected error), nan (writes NaN and NUL), no-result.
Its "weights" are a chain of hashes, so that a run that resumes wrongly ends with other ones.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from training.tuning import errors
from training.tuning.rundir import RunDir, StopRequest, die_with_parent

STEPS = int(os.environ.get("FAKE_STEPS", "12"))
SECONDS = float(os.environ.get("FAKE_SECONDS", "0.02"))
MODE = os.environ.get("FAKE_MODE", "")
SAVE_EVERY = 4
stop = StopRequest()


def main() -> int:
    die_with_parent()
    directory = RunDir(Path(sys.argv[1]))
    try:
        with directory.lock():
            return train(directory)
    except errors.Locked:
        return errors.EXIT_LOCKED


def train(directory: RunDir) -> int:
    directory.cancel_file.unlink(missing_ok=True)
    if directory.finished:
        return errors.EXIT_DONE
    directory.set_state(status="running")
    if MODE == "bad-input":
        directory.set_state(
            status="failed", error=f"{directory.path}/data/train.jsonl, line 1, prompt: is odd"
        )
        return errors.EXIT_BAD_INPUT
    if MODE == "breaks":
        directory.set_state(status="failed", error="ZeroDivisionError: division by zero")
        return errors.EXIT_UNEXPECTED
    signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "signalled", True))
    weights, done = restore(directory)
    directory.cut_back(done if done else -1)
    directory.set_state(step=done, total_steps=STEPS)
    if not done:
        picture = directory.path / "samples" / "before-0.png"
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(b"a picture")
        directory.append_sample({"step": 0, "when": "before", "prompt": "p", "image": "samples/before-0.png"})
    for step in range(done + 1, STEPS + 1):
        time.sleep(SECONDS)
        misbehave(directory, step)
        weights = next_weights(weights, step)
        directory.append_metrics({"step": step, "time": 0.1 * step, "loss": 1 / step})
        if step == STEPS:
            directory.append_metrics({"step": step, "time": 0.1 * step, "eval/accuracy": 0.5})
        directory.set_state(step=step)
        status = "cancelled" if directory.cancel_file.exists() else "interrupted" if stop.signalled else None
        status = None if MODE == "deaf" else status
        if status or step % SAVE_EVERY == 0:
            save(directory, weights, step)
        if status:
            directory.set_state(status=status)
            return errors.EXIT_CANCELLED if status == "cancelled" else errors.EXIT_INTERRUPTED
    if MODE != "no-result":
        directory.publish_result(lambda folder: write_result(folder, weights))
    directory.set_state(status="done")
    return errors.EXIT_DONE


def misbehave(directory: RunDir, step: int) -> None:
    if MODE == "always-dies" and step == STEPS // 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "dies" and step == STEPS // 2 and not (directory.path.parent / "died").exists():
        (directory.path.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "stalls" and step == STEPS // 2:
        time.sleep(600)
    if MODE == "nan" and step == 2:
        with directory.metrics_file.open("a") as file:
            file.write('{"step": 2, "time": 0.2, "loss": NaN, "rewards/margin": Infinity}\n')
        with directory.samples_file.open("a") as file:
            file.write('{"step": 2, "when": "after", "prompt": "p", "text": "a\\u0000b\\ud800"}\n')


def next_weights(weights: str, step: int) -> str:
    return hashlib.sha256(f"{weights} {step}".encode()).hexdigest()


def final_weights(steps: int) -> str:
    weights = "seed"
    for step in range(1, steps + 1):
        weights = next_weights(weights, step)
    return weights


def restore(directory: RunDir) -> tuple[str, int]:
    checkpoints = directory.checkpoints()
    if not checkpoints:
        return "seed", 0
    state = json.loads((checkpoints[-1] / "trainer.json").read_text())
    return state["weights"], state["step"]


def save(directory: RunDir, weights: str, step: int) -> None:
    content = json.dumps({"weights": weights, "step": step})
    directory.save_checkpoint(step, lambda folder: (folder / "trainer.json").write_text(content), keep=set())


def write_result(folder: Path, weights: str) -> None:
    (folder / "weights.txt").write_text(weights)
    (folder / "metadata.json").write_text(json.dumps({"method": "fake", "metrics": {"eval/accuracy": 0.5}}))


if __name__ == "__main__":
    sys.exit(main())
