"""Tiny text models on disk, one of each kind per test process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.tuning.text_models import save_causal, save_encoder

# Shapes and types in signatures are checked at every call.
install_import_hook(
    ["training.tuning.images", "training.tuning.losses", "training.tuning.text"],
    "beartype.beartype",
)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a causal model, by architecture: llama, qwen2 or gpt2."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = save_causal(folder, architecture)
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same with weights as they are initialised, from which training goes well."""

    def get(architecture: str) -> Path:
        return save_causal(tmp_path_factory.mktemp(architecture), architecture, sharp=False)

    return get


@pytest.fixture(scope="session")
def llama(causal_folder: Callable[[str], Path]) -> Path:
    return causal_folder("llama")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("bert"))
