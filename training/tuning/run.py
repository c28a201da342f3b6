"""What a method gets: a :class:`Run`.

A method file has two functions. ``inspect(run) -> dict`` returns the preview of the data (for text:
``text/dataset.py``).
``train(run) -> None`` writes its loop out::

    def train(run: Run) -> None:
        config = run.config                              # the method's own config class
        groups = ...run.train...                         # list[Group]; run.eval may be empty
        plan = make_plan(sizes, config=config, seed=run.seed, budget=...)
        model = ...                                      # seeded: Run called torch.manual_seed
        optimizer = make_optimizer(model.parameters(), config)
        done = run.begin(model, optimizer, total_steps=plan.total_steps)     # resumes, or 0
        for step in range(done + 1, plan.total_steps + 1):
            for micro in plan.step(step):
                ...backward()
            metrics |= update(optimizer, config, step=step, total_steps=plan.total_steps)
            run.log(step, metrics)                       # means over log_every steps
            if run.due(config.eval_every, step):
                run.log_eval(step, evaluate(...), best_by=config.metric_for_best)
            run.end_step(step)                           # saves when due; raises Stopped after saving
        run.load_best(model)                             # only if best_by was used
        run.publish(lambda folder: model.save_pretrained(folder), how_to_load="...")

Everything that is trained must be in ``model`` and require a gradient; nothing else is in a checkpoint but
the tensors given to ``begin`` as ``keep``, which the method changes in place (running means, a moving
reference). Randomness in the loop comes from torch's global generator (restored on resume) or, better, from
generators made from ``run.seed`` and the step. Before the first step, in long preparations, call
``run.check_stop()`` now and then. Jobs that do not train (generate, score) use ``run.check_stop``,
``run.progress`` and ``run.publish`` alone.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from training.tuning import processes
from training.tuning.cards import write_card
from training.tuning.config import Config
from training.tuning.data import Group, load_groups
from training.tuning.errors import BadInput, Stopped
from training.tuning.launching import world_size
from training.tuning.registry import Method, get_method
from training.tuning.rewards.spec import BadReward, RewardEntry, parse_rewards
from training.tuning.rundir import RunDir, StopRequest
from training.tuning.views import viewed


class DataInfo(BaseModel):
    """What the card says about the data, when whoever made the run directory knows more than the files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str | None = None
    judgements: int | None = None
    annotators: int | None = None
    groups: int | None = None
    project: str | None = None
    base_name: str | None = Field(None, description="how people call the base, where it lies in a folder")


class RunSpec(BaseModel):
    """``run.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    base: str | None = None
    reward: list[dict[str, Any]] | None = None
    data: DataInfo = DataInfo()
    seed: int = Field(0, ge=0, lt=2**63)


# Later ones win where the processes of a run were told different things.
STATUSES = [None, "interrupted", "cancelled"]


class Run:
    """One run: its inputs, and the plumbing that no method needs to know about. See the module."""

    def __init__(self, directory: RunDir, *, stop: StopRequest | None = None) -> None:
        self.dir = directory
        self.spec = read_spec(directory.run_file)
        self.method: Method = get_method(self.spec.method)
        self.config: Any = parse_config(self.method, self.spec, directory.run_file)
        self.reward = parse_reward(self.method, self.spec, directory.run_file)
        self.base = self.spec.base
        self.seed = self.spec.seed
        self.device = device_of_process()
        if world_size() != getattr(self.config, "processes", 1):
            raise BadInput(
                f"started in {world_size()} processes; the config must say as many, where the method can use "
                "them",
                file=directory.run_file,
                field="config.processes",
            )
        self.total_steps = 0
        self.eval_metrics: dict[str, float] = {}
        self.last_metrics: dict[str, float] = {}
        self.memory: dict[str, Any] = {}  # of the method, beside its weights; kept in checkpoints as JSON
        self._stop = stop or StopRequest()
        self._started = time.monotonic()
        self._window: dict[str, list[float]] = {}
        self._best: dict[str, Any] | None = None
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._keep: dict[str, torch.Tensor] = {}
        torch.manual_seed(self.seed)
        if self.device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)

    # Inputs

    @cached_property
    def train(self) -> list[Group]:
        """The groups of data/train.jsonl."""
        groups = load_groups(self.dir.train_file, modality=self.method.modality, media=self.dir.media)
        return viewed(groups, self.config, must_say_something=True)

    @cached_property
    def eval(self) -> list[Group]:
        """The groups of data/eval.jsonl; none if there is no such file."""
        if not self.dir.eval_file.exists():
            return []
        groups = load_groups(self.dir.eval_file, modality=self.method.modality, media=self.dir.media)
        return viewed(groups, self.config, must_say_something=False)

    @cached_property
    def data_sha256(self) -> str:
        """Content hash of the training rows."""
        return hashlib.sha256(self.dir.train_file.read_bytes()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines the trajectory: a checkpoint of another one must not be resumed."""
        spec = self.spec.model_dump(exclude={"data"})
        spec |= {"config": self.config.model_dump(), "base": identity_of(self.base)}
        return hashlib.sha256(json.dumps([spec, self.data_sha256], sort_keys=True).encode()).hexdigest()

    # Steps

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        keep: dict[str, torch.Tensor] | None = None,
    ) -> int:
        """Say what is trained and for how long; restore the newest checkpoint. Returns the steps done.

        The tensors ``keep`` are saved and restored, in place, beside the weights.
        """
        self._model, self._optimizer, self.total_steps = model, optimizer, total_steps
        processes.same_weights(model)
        self._keep = keep or {}
        checkpoints = self.dir.checkpoints()
        done = self._restore(checkpoints[-1]) if checkpoints else 0
        self.dir.cut_back(done if checkpoints else -1)
        self.dir.set_state(step=done, total_steps=total_steps)
        return done

    def due(self, every: int | None, step: int) -> bool:
        """True every ``every`` steps (never, if None) and at the last step."""
        return step == self.total_steps or (every is not None and step % every == 0)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Add a step's values; a line with the means appears after the first step and every ``log_every``."""
        for name, value in metrics.items():
            total = self._window.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1
        if step == 1 or self.due(self.config.log_every, step):
            self.last_metrics = {name: total / count for name, (total, count) in self._window.items()}
            self._window = {}
            self.dir.append_metrics({"step": step, "time": self._seconds(), **self.last_metrics})

    def log_eval(self, step: int, metrics: dict[str, float], *, best_by: str | None = None) -> None:
        """Write evaluation values, under ``eval/``. ``best_by`` names the one that decides."""
        named = {
            name if name.startswith("eval/") else f"eval/{name}": value for name, value in metrics.items()
        }
        self.dir.append_metrics({"step": step, "time": self._seconds(), **named})
        self.eval_metrics = named
        if best_by is not None and math.isfinite(named.get(best_by, math.nan)):
            value = -named[best_by] if best_by.endswith("loss") else named[best_by]
            if self._best is None or value > self._best["value"]:
                self._best = {"step": step, "value": value, "metrics": named}

    def end_step(self, step: int) -> None:
        """Save if it is time to, and stop if somebody asked: saves, then raises Stopped."""
        self.dir.set_state(step=step)
        status = STATUSES[processes.largest(STATUSES.index(self._stop_status()))]
        new_best = self._best is not None and self._best["step"] == step
        if status or new_best or self.due(self.config.save_every, step):
            self._save(step)
        if status:
            raise Stopped(status)

    def check_stop(self) -> None:
        """Raise Stopped if somebody asked to stop. For long work outside the steps; saves nothing.

        Of several processes rank 0 alone stops, and is not waited for.
        """
        if (status := self._stop_status()) and processes.leads():
            raise Stopped(status)

    def progress(self, step: int, total_steps: int, metrics: dict[str, float]) -> None:
        """For jobs without training: one line of metrics, the state, and a look at whether to stop."""
        self.dir.append_metrics({"step": step, "time": self._seconds(), **metrics})
        self.dir.set_state(step=step, total_steps=total_steps)
        self.check_stop()

    def sample(self, step: int, when: str, row: dict[str, Any]) -> None:
        """One line of samples.jsonl; ``when`` is ``before`` or ``after`` training."""
        self.dir.append_sample({"step": step, "when": when, **row})

    # Results

    def load_best(self, model: nn.Module) -> int:
        """Put the best evaluated weights into ``model``.

        Returns their step (the last, if nothing was evaluated).
        """
        if self._best is None:
            return self.total_steps
        step: int = self._best["step"]
        self.eval_metrics = self._best["metrics"]
        if step != self.total_steps:
            load_weights(model, self.dir.path / f"checkpoint-{step:06d}" / "weights.safetensors")
        return step

    def publish(
        self, write: Callable[[Path], None], *, how_to_load: str | None = None, notes: list[str] | None = None
    ) -> None:
        """Let ``write`` fill the result's folder, add a card if there is something to load, rename it."""

        def write_all(folder: Path) -> None:
            write(folder)
            if how_to_load is not None:
                write_card(folder, run=self, how_to_load=how_to_load, notes=notes or [])

        self.dir.publish_result(write_all)

    # Inside

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _stop_status(self) -> str | None:
        if self.dir.cancel_file.exists():
            return "cancelled"
        return "interrupted" if self._stop.signalled else None

    def _save(self, step: int) -> None:
        assert self._model is not None
        assert self._optimizer is not None
        model, optimizer = self._model, self._optimizer

        def write(folder: Path) -> None:
            save_weights(model, folder / "weights.safetensors")
            if self._keep:
                kept = {name: value.cpu().contiguous() for name, value in self._keep.items()}
                save_file(kept, folder / "kept.safetensors")
            torch.save(optimizer.state_dict(), folder / "optimizer.pt")
            torch.save(_random_states(), folder / "random.pt")
            state = {
                "step": step,
                "seconds": self._seconds(),
                "window": self._window,
                "best": self._best,
                "eval": self.eval_metrics,
                "last": self.last_metrics,
                "memory": self.memory,
                "fingerprint": self.fingerprint,
            }
            # Not write_json: a mean that is not finite must come back as it was.
            (folder / "trainer.json").write_text(json.dumps(state), encoding="utf-8")

        self.dir.save_checkpoint(step, write, keep={self._best["step"]} if self._best else set())

    def _restore(self, checkpoint: Path) -> int:
        assert self._model is not None
        assert self._optimizer is not None
        state = json.loads((checkpoint / "trainer.json").read_text())
        if state["fingerprint"] != self.fingerprint:
            raise BadInput(
                f"the run or its data changed since {checkpoint.name} was saved; make a new run directory",
                file=self.dir.run_file,
            )
        load_weights(self._model, checkpoint / "weights.safetensors")
        if self._keep:
            for name, value in load_file(checkpoint / "kept.safetensors").items():
                self._keep[name].copy_(value)
        self._optimizer.load_state_dict(
            torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        )
        _set_random_states(torch.load(checkpoint / "random.pt", weights_only=True))
        self._started = time.monotonic() - state["seconds"]
        self._window, self._best = state["window"], state["best"]
        self.eval_metrics, self.last_metrics = state["eval"], state["last"]
        self.memory = state["memory"]
        return int(state["step"])


def device_of_process() -> torch.device:
    """The device that this process computes on: of several with CUDA, each has its own."""
    kind = os.environ.get("TIEBREAK_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    several = kind == "cuda" and processes.count() > 1
    return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if several else kind)


def identity_of(base: str | None) -> Any:
    """What tells one base from another, wherever it lies: its weight files and their sizes, or its hub id."""
    if base is None or not Path(base).is_dir():
        return base
    return [(path.name, path.stat().st_size) for path in sorted(Path(base).rglob("*.safetensors"))]


def read_spec(path: Path) -> RunSpec:
    """``run.json``, checked."""
    try:
        spec = RunSpec.model_validate(json.loads(path.read_text(encoding="utf-8")))
        get_method(spec.method)
    except FileNotFoundError:
        raise BadInput("the file is missing", file=path) from None
    except json.JSONDecodeError as error:
        raise BadInput(f"not JSON: {error.msg}", file=path, line=error.lineno) from None
    except ValidationError as error:
        raise _first_error(error, file=path) from None
    except KeyError as error:
        raise BadInput(str(error.args[0]), file=path, field="method") from None
    return spec


def parse_config(method: Method, spec: RunSpec, path: Path) -> Config:
    """The method's own config from ``run.json``. What a method cannot use is an error."""
    try:
        return method.config.model_validate(spec.config)
    except ValidationError as error:
        raise _first_error(error, file=path, prefix="config.") from None


def parse_reward(method: Method, spec: RunSpec, path: Path) -> list[RewardEntry]:
    """The ``reward`` list, checked; empty if there is none and the method needs none."""
    if spec.reward is not None and method.reward == "none":
        raise BadInput(f"{method.name} takes no reward", file=path, field="reward")
    if not spec.reward and method.reward == "required":
        raise BadInput(f"{method.name} needs a list of rewards", file=path, field="reward")
    try:
        return parse_rewards(spec.reward or [], modality=method.modality)
    except BadReward as error:
        raise BadInput(error.message, file=path, field=error.field) from None


def _first_error(error: ValidationError, *, file: Path, prefix: str = "") -> BadInput:
    first = error.errors()[0]
    field = prefix + ".".join(str(part) for part in first["loc"])
    message = (
        "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    )
    return BadInput(message, file=file, field=field.rstrip("."))


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: parameters that require a gradient, each once even if tied."""
    return {name: value.data for name, value in model.named_parameters() if value.requires_grad}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the trained tensors."""
    save_file({name: value.contiguous().cpu() for name, value in trained_tensors(model).items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read the trained tensors into ``model``."""
    saved, wanted = load_file(path), trained_tensors(model)
    if saved.keys() != wanted.keys():
        raise BadInput("the checkpoint holds other weights than this run trains", file=path)
    for name, value in wanted.items():
        value.copy_(saved[name])


def _random_states() -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
