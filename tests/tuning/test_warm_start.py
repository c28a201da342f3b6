"""The process that forks one for each run: what such a process is, how it ends, and when there is none."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.tuning.warm_start import Forked, Warm

OUTPUT = "output.txt"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds; the machine may be busy


def started(module: str) -> Warm:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TIEBREAK_DEVICE": "cpu"}
    found = Warm(environment, modules=[module])
    wait_until(lambda: found.serves(environment))
    return found


@pytest.fixture(scope="module")
def lasting():
    """Ready, with what a trainer needs to say that it has nothing to do."""
    found = started("training.tuning.__main__")
    yield found
    found.close()


@pytest.fixture
def mortal():
    """One that the test may end."""
    found = started("json")
    yield found
    found.close()


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A run directory whose trainer waits for ever: nobody writes into the pipe that run.json is."""
    os.mkfifo(tmp_path / "run.json")
    return tmp_path


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def fork(warm: Warm, folder: Path) -> Forked:
    child = warm.fork(folder, folder / OUTPUT)
    assert child is not None
    return child


def test_exit_code_and_output(lasting, tmp_path):
    """As of `python -m training.tuning .` in the folder: twice, from the same process."""
    for name, line in (("one", "{"), ("two", '{"method": "nothing"}')):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(line)
        (folder / "result").mkdir()
        (folder / "lock").touch()
        assert fork(lasting, folder).wait(PATIENCE) == 0
        assert "finished before" in (folder / OUTPUT).read_text()
        assert json.loads((folder / "state.json").read_text())["status"] == "done"


def test_a_process_of_its_own(lasting, hanging):
    """In its folder and a process group of its own; it hears signals that the process before it ignores."""
    child = fork(lasting, hanging)
    wait_until(lambda: os.readlink(f"/proc/{child.pid}/fd/1") == str(hanging / OUTPUT))
    assert os.getpgid(child.pid) == child.pid
    assert os.readlink(f"/proc/{child.pid}/cwd") == str(hanging)
    assert os.readlink(f"/proc/{child.pid}/fd/0") == os.devnull
    open_files = [os.readlink(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()]
    assert not [name for name in open_files if name.startswith("socket:")]
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.05)
    os.kill(lasting._process.pid, signal.SIGTERM)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(PATIENCE) == -signal.SIGTERM
    assert not lasting.is_gone
    again = fork(lasting, hanging)
    os.killpg(again.pid, signal.SIGKILL)
    assert again.wait(PATIENCE) == -signal.SIGKILL


def test_killed_with_what_it_forked(mortal, hanging):
    child = fork(mortal, hanging)
    os.kill(mortal._process.pid, signal.SIGKILL)
    assert child.wait(PATIENCE) == -signal.SIGKILL
    assert mortal.is_gone
    assert mortal.fork(hanging, hanging / OUTPUT) is None
    wait_until(lambda: not is_there(child.pid))


def test_ends_with_the_worker(mortal, hanging):
    """Whoever holds the other end may be killed: the line is closed then."""
    child = fork(mortal, hanging)
    mortal._line.close()
    wait_until(lambda: mortal._process.poll() is not None)
    wait_until(lambda: not is_there(child.pid))


def test_deaf_is_ended(mortal, hanging, monkeypatch):
    monkeypatch.setattr("training.tuning.warm_start.PATIENCE", 0.2)
    os.kill(mortal._process.pid, signal.SIGSTOP)
    assert mortal.fork(hanging, hanging / OUTPUT) is None
    assert mortal.is_gone
    assert mortal._process.returncode == -signal.SIGKILL


def test_another_environment_is_not_served(lasting):
    """Libraries read theirs when they are loaded."""
    assert lasting.serves(lasting._environment)
    assert not lasting.serves(lasting._environment | {"OMP_NUM_THREADS": "7"})


def test_peft_is_not_loaded_where_it_would_open_devices():
    """Nor what loads it: on a build with CUDA and with bitsandbytes."""
    code = (
        "import sys; from training.tuning import warm; warm._peft_is_harmless = lambda: False; "
        "warm.load(warm.MODULES); print('peft' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
