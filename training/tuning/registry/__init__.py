"""The list of methods. Torch-free: `methods/NAME.py`, with `train` and `inspect`, loads when a run starts."""

from training.tuning.registry.images import IMAGES
from training.tuning.registry.method import Feedback, Method, Modality
from training.tuning.registry.text import TEXT

__all__ = ["METHODS", "Feedback", "Method", "Modality", "get_method"]

METHODS = [*TEXT, *IMAGES]


def get_method(name: str) -> Method:
    """The method of this name. KeyError, naming what exists, if there is none."""
    for method in METHODS:
        if method.name == name:
            return method
    raise KeyError(f'there is no method "{name}"; there are {", ".join(method.name for method in METHODS)}')
