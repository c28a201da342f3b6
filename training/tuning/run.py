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
        for step in run.steps(done):                    # ends sooner if early_stop says so
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
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.tuning import processes
from training.tuning.cards import write_card
from training.tuning.data import Group
from training.tuning.early_stop import Patience, deciding_value
from training.tuning.errors import BadInput, Stopped
from training.tuning.launching import world_size
from training.tuning.reading import load_groups
from training.tuning.registry import Method, get_method
from training.tuning.rundir import RunDir, StopRequest
from training.tuning.spec import identity_of, parse_config, parse_reward, read_spec
from training.tuning.trackers import Tracked, Trackers, check_installed
from training.tuning.views import viewed
from training.tuning.weights import (
    load_state,
    load_weights,
    random_states,
    set_random_states,
    whole_state,
    whole_weights,
)

logger = logging.getLogger("training.tuning")


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
        self.device = processes.device()
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
        self._patience = Patience()
        self._trackers: Trackers | None = None
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
        # By how many processes, and in which of them the weights lie, is a matter of rounding.
        config = self.config.model_dump(exclude={"processes", "sharded"})
        spec |= {"config": config, "base": identity_of(self.base)}
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
        if getattr(self.config, "early_stop", None) and not self.eval:
            raise BadInput(
                "early_stop needs held-out rows", file=self.dir.eval_file, field="config.early_stop"
            )
        if self._patience.stopped_at is not None:
            self.total_steps = self._patience.stopped_at
        self.dir.set_state(step=done, total_steps=self.total_steps)
        self._open_trackers(done)
        return done

    def steps(self, done: int) -> Iterator[int]:
        """The steps after ``done``, until the last or until evaluations no longer improve.

        With ``early_stop`` the model then gets its best evaluated weights.
        """
        step = done
        while step < self.total_steps:
            step += 1
            yield step
        if self.config.early_stop is not None and self._model is not None:
            self.load_best(self._model)

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
            self._log_window(step)

    def _log_window(self, step: int) -> None:
        if self._window:
            self.last_metrics = {name: total / count for name, (total, count) in self._window.items()}
            self._window = {}
            self._tell(step, self.last_metrics)

    def log_eval(self, step: int, metrics: dict[str, float], *, best_by: str | None = None) -> None:
        """Write evaluation values, under ``eval/``.

        ``best_by`` names the one that decides which weights are best; ``early_stop`` overrules it.
        """
        named = {
            name if name.startswith("eval/") else f"eval/{name}": value for name, value in metrics.items()
        }
        self._tell(step, named)
        self.eval_metrics = named
        if (rule := self.config.early_stop) is not None:
            value = deciding_value(named, rule, file=self.dir.run_file)
            if self._best is None or value > self._best["value"]:
                self._best = {"step": step, "value": value, "metrics": named}
            self._patience.add(value, min_delta=rule.min_delta)
            if self._patience.stale >= rule.patience and step < self.total_steps:
                logger.info(
                    "stopped early at step %d: no better %s for %d evaluations",
                    step,
                    rule.metric,
                    rule.patience,
                )
                self._patience.stopped_at = self.total_steps = step
                self.dir.set_state(total_steps=step)
        elif best_by is not None and math.isfinite(named.get(best_by, math.nan)):
            value = -named[best_by] if best_by.endswith("loss") else named[best_by]
            if self._best is None or value > self._best["value"]:
                self._best = {"step": step, "value": value, "metrics": named}

    def end_step(self, step: int) -> None:
        """Save if it is time to, and stop if somebody asked: saves, then raises Stopped."""
        self.dir.set_state(step=step)
        status = STATUSES[processes.largest(STATUSES.index(self._stop_status()))]
        new_best = self._best is not None and self._best["step"] == step
        if self._patience.stopped_at is not None:
            if step > self._patience.stopped_at:
                raise RuntimeError(f"{self.method.name} does not iterate over run.steps")
            self._log_window(step)
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

    @property
    def stopped_early(self) -> dict[str, Any] | None:
        """Where ``early_stop`` ended the run, and which weights it kept, if it was set."""
        if getattr(self.config, "early_stop", None) is None or self._best is None:
            return None
        rule = self.config.early_stop
        return {"at": self._patience.stopped_at, "kept": self._best["step"], "metric": rule.metric}

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
        self,
        write: Callable[[Path], None],
        *,
        how_to_load: str | None = None,
        notes: list[str] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Let ``write`` fill the result's folder, add a card if there is something to load, rename it.

        ``notes`` are sentences for the card, ``facts`` more of its metadata; ``write`` may add to both.
        """

        def write_all(folder: Path) -> None:
            write(folder)
            if how_to_load is not None:
                said = [*(notes or []), *self._kept()]
                write_card(folder, run=self, how_to_load=how_to_load, notes=said, more=facts or {})

        self.dir.publish_result(write_all)

    # Inside

    def _kept(self) -> list[str]:
        """A sentence for the card about the weights that early stopping kept."""
        if (found := self.stopped_early) is None:
            return []
        ended = f"Stopped early at step {found['at']}. " if found["at"] else ""
        return [f"{ended}The weights are those of step {found['kept']}, the best by {found['metric']}."]

    def _tell(self, step: int, values: dict[str, float]) -> None:
        values = values | processes.device_memory(self.device)
        self.dir.append_metrics({"step": step, "time": self._seconds(), **values})
        if self._trackers is not None:
            self._trackers.send(step, values)

    def _open_trackers(self, done: int) -> None:
        if not (names := getattr(self.config, "report_to", [])):
            return
        check_installed(names)
        if processes.leads():
            key = f"{self.method.name}-{self.dir.path.name}-{self.fingerprint[:8]}"
            config = self.config.model_dump(mode="json")
            self._trackers = Trackers(
                names, Tracked(self.dir.path, key=key, method=self.method.name, config=config, done=done)
            )

    def close(self, status: str) -> None:
        """The run has ended, in whatever way: give trackers a moment."""
        if self._trackers is not None:
            self._trackers.close(status)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _stop_status(self) -> str | None:
        if self.dir.cancel_file.exists():
            return "cancelled"
        return "interrupted" if self._stop.signalled else None

    def _save(self, step: int) -> None:
        assert self._model is not None
        assert self._optimizer is not None
        weights, optimizer_state = whole_weights(self._model), whole_state(self._optimizer)

        def write(folder: Path) -> None:
            save_file(weights, folder / "weights.safetensors")
            if self._keep:
                kept = {name: value.cpu().contiguous() for name, value in self._keep.items()}
                save_file(kept, folder / "kept.safetensors")
            torch.save(optimizer_state, folder / "optimizer.pt")
            torch.save(random_states(), folder / "random.pt")
            state = {
                "step": step,
                "seconds": self._seconds(),
                "window": self._window,
                "best": self._best,
                "patience": asdict(self._patience),
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
        state_of_optimizer = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        load_state(self._optimizer, state_of_optimizer)
        set_random_states(torch.load(checkpoint / "random.pt", weights_only=True))
        self._started = time.monotonic() - state["seconds"]
        self._window, self._best = state["window"], state["best"]
        self._patience = Patience(**state["patience"])
        self.eval_metrics, self.last_metrics = state["eval"], state["last"]
        self.memory = state["memory"]
        return int(state["step"])
