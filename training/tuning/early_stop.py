"""When evaluations no longer improve."""

import math
from dataclasses import dataclass
from pathlib import Path

from training.tuning.config import EarlyStopConfig
from training.tuning.errors import BadInput


@dataclass
class Patience:
    """How long evaluations have not improved; values are such that higher is better."""

    best: float | None = None
    stale: int = 0
    stopped_at: int | None = None

    def add(self, value: float, *, min_delta: float) -> None:
        """Count one more evaluation."""
        if self.best is None or value > self.best + min_delta:
            self.best, self.stale = value, 0
        else:
            self.stale += 1


def deciding_value(named: dict[str, float], rule: EarlyStopConfig, *, file: Path) -> float:
    """The evaluation value that the rule names, higher is better; what is not finite is worst."""
    name = rule.metric if rule.metric.startswith("eval/") else f"eval/{rule.metric}"
    if name not in named:
        raise BadInput(
            f"the evaluation has no {name}; it has {', '.join(sorted(named)) or 'nothing'}",
            file=file,
            field="config.early_stop.metric",
        )
    value = -named[name] if rule.direction == "lower" else named[name]
    return value if math.isfinite(value) else -math.inf
