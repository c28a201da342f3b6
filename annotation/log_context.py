"""What is being worked on, for the log: the request, the task, the run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default=MappingProxyType({}))


def current_ids() -> Mapping[str, str]:
    """By name: `request_id`, `task`, `task_id`, `run_id`, as far as they are known."""
    return _ids.get()


@contextmanager
def working_on(**ids: object) -> Iterator[None]:
    """What is logged within, in this thread, carries these ids beside those that it carries already."""
    token = _ids.set({**_ids.get(), **{name: str(value) for name, value in ids.items()}})
    try:
        yield
    finally:
        _ids.reset(token)
