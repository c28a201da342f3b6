"""Which devices this machine has for runs. Asked in a child process, so that no other one loads torch."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEVICE_NODES = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, WSL, AMD (which torch also calls cuda)
COUNT = "import torch; print(torch.cuda.device_count())"


class DeviceError(RuntimeError):
    """A kind of device was asked for that this machine does not have."""


@dataclass(frozen=True)
class Device:
    """One place where one run at a time may work."""

    name: str
    kind: str  # cpu | cuda
    environment: Mapping[str, str] = field(default_factory=dict)


def find_devices(environment: Mapping[str, str]) -> list[Device]:
    """Every CUDA device, or else the CPU; RUN_DEVICE_KIND (cpu or cuda) insists on one kind.

    RUN_WORKERS lets that many runs share the CPU, each with its part of the cores; 1 unless it says more.
    """
    wanted = environment.get("RUN_DEVICE_KIND", "")
    if wanted not in {"", "cpu", "cuda"}:
        raise DeviceError(f"RUN_DEVICE_KIND is {wanted!r}; set it to cpu or cuda, or leave it out.")
    count = 0 if wanted == "cpu" else count_cuda_devices(environment)
    if wanted == "cuda" and not count:
        raise DeviceError("RUN_DEVICE_KIND is cuda, but torch finds no CUDA device here.")
    if not count:
        return share_cpu(environment.get("RUN_WORKERS", "1"))
    return [Device(f"cuda-{index}", "cuda", {"CUDA_VISIBLE_DEVICES": str(index)}) for index in range(count)]


def share_cpu(workers: str) -> list[Device]:
    """The CPU as one device, or as several that each have some threads."""
    if not workers.isdecimal() or int(workers) == 0:
        raise DeviceError(f"RUN_WORKERS is {workers!r}; set it to a whole number from 1 on, or leave it out.")
    count = int(workers)
    if count == 1:
        return [Device("cpu", "cpu")]
    threads = max(1, (os.cpu_count() or 1) // count)
    return [Device(f"cpu-{index}", "cpu", {"OMP_NUM_THREADS": str(threads)}) for index in range(count)]


def count_cuda_devices(environment: Mapping[str, str]) -> int:
    """How many devices torch can use. Without a device node the answer is 0 and torch is not asked."""
    if not any(Path(node).exists() for node in DEVICE_NODES):
        return 0
    command = [sys.executable, "-c", COUNT]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if answer.returncode:
        raise DeviceError(f"torch cannot be asked for devices: {answer.stderr.strip().splitlines()[-1]}")
    return int(answer.stdout)
