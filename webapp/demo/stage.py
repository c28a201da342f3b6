"""One stage of training a demo model: its steps, its state on disk and its progress."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SAVE_EVERY = 250  # steps


class Stage:
    """The steps of one training stage: counts them, reports them, and keeps a state to go on from."""

    def __init__(self, path: Path, steps: int, seed: int, progress: Callable[[str], None]) -> None:
        self.path, self.steps, self.progress = path, steps, progress
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.first = 0
        self.total_seconds = 0.0  # of CPU, with those of earlier calls

    def resume(self, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.clock = time.process_time()
        if not self.path.exists():
            return
        saved = torch.load(self.path, weights_only=True)
        if saved["steps"] != self.steps:
            raise ValueError(
                f"{self.path} is of a build with {saved['steps']} steps, not {self.steps}: delete it"
            )
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        self.generator.set_state(saved["generator"])
        self.rng.bit_generator.state = json.loads(saved["rng"])
        self.first, self.total_seconds = saved["step"], saved["cpu_seconds"]
        self.progress(f"{self.path.stem}: going on from step {self.first}")

    def save(self, step: int) -> None:
        state: dict[str, object] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "step": step,
            "steps": self.steps,
            "cpu_seconds": self.total_seconds,
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }
        torch.save(state, self.path.with_suffix(".new"))
        os.replace(self.path.with_suffix(".new"), self.path)

    def after(self, step: int, loss: Tensor) -> None:
        """To be called when a step is done; `step` counts from 0."""
        done = step + 1
        now = time.process_time()
        self.total_seconds, self.clock = self.total_seconds + now - self.clock, now
        if done % SAVE_EVERY == 0 or done == self.steps:
            self.save(done)
        if done % 100 == 0 or done == self.steps:
            self.progress(f"{self.path.stem}: step {done} of {self.steps}, loss {loss.item():.4f}")
