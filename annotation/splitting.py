"""Splits by prompt: which part a prompt belongs to depends on its text and a seed, and on nothing else."""

import hashlib
import json
from typing import Any


def split_score(prompt: Any, *, seed: int) -> float:
    """A number in 0..1 that depends on prompt and seed alone; prompts below eval_fraction are held out."""
    digest = hashlib.sha256(f"{seed}:{canonical(prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces: equal values, equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
