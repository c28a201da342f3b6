"""Tokens per second of one step."""

import time


class Throughput:
    """Starts its clock when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._tokens = 0

    def add(self, tokens: int) -> None:
        """Count tokens that the model computed."""
        self._tokens += tokens

    def result(self) -> dict[str, float]:
        """``tokens_per_second`` since the start."""
        return {"tokens_per_second": self._tokens / (time.perf_counter() - self._start)}
