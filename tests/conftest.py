"""One throw-away Postgres for each test process, started when the first test needs it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from webapp.embedded.postgres import Postgres

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests' models are too small to share, and cores are busy
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples every time: only a change breaks a test. HYPOTHESIS_PROFILE=default seeks new ones.
hypothesis.settings.register_profile("repeat", derandomize=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(scope="session", autouse=True)
def data_dir() -> Iterator[Path]:
    """The data directory of this test process."""
    folder = Path(os.environ["TIEBREAK_DATA"])
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(data_dir: Path) -> Iterator["Postgres"]:
    from webapp.embedded.postgres import THROWAWAY, Postgres

    server = Postgres(data_dir, options=THROWAWAY)
    server.prepare()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres: "Postgres") -> None:
    """Called by pytest-django before it creates the test database."""
