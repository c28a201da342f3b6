"""Searches as jobs: every way of searching, on every family, finds pictures that the reward prefers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tuning.image_models import save_flux, save_pipeline, save_sd3, save_sdxl
from tests.tuning.image_runs import make_run, metrics, read_rows, run
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE

QUICK = {"num_inference_steps": 4, "guidance_scale": 1.0}
BRIGHT = [{"rule": "brightness", "weight": 10.0}]
SEARCHES: dict[str, dict[str, Any]] = {
    "best_of_n": {"search_size": 6, "search_cuts": [0.5], "search_share": 0.5},
    "particles": {"search_size": 6, "search_every": 1, "search_from": 0.2},
    "candidates": {"search_size": 8, "search_greedy": True, "num_inference_steps": 8},
    "noise": {"search_iterations": 6, "search_learning_rate": 50.0},
    "guidance": {"search_strength": 200.0, "search_from": 0.0, "search_until": 1.0, "search_eta": 0.0},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def brightness(folder: Path) -> float:
    files = sorted((folder / "result" / "media").iterdir())
    return float(np.mean([np.asarray(Image.open(file).convert("L")).mean() for file in files]))


def pictures(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((folder / "result" / "media").iterdir())]


def draw(folder: Path, base: Path, *, reward: Any = BRIGHT, rows: int = 2, **config: Any) -> Path:
    prompts = [{"prompt": prompt} for prompt in ("a b", "c", "d e f")[:rows]]
    given = None if config.get("search", "none") == "none" else reward
    make_run(folder, "image_generate", base=base, config=QUICK | config, rows=prompts, reward=given)
    assert run(folder) == EXIT_DONE
    return folder


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_finds_brighter_pictures(base: Path, tmp_path: Path, search: str) -> None:
    """Than plain drawing does; and the same ones again, whatever is drawn together."""
    plain = draw(tmp_path / "plain", base)
    config = {"search": search} | SEARCHES[search]
    found = draw(tmp_path / "found", base, **config)
    assert brightness(found) > brightness(plain) + 1
    again = draw(tmp_path / "again", base, batch_size=2, **config)
    levels = zip(*([Image.open(file) for file in _files(folder)] for folder in (found, again)), strict=True)
    assert max(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() for a, b in levels) <= 1
    assert "reward" in metrics(found)[0]


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "result" / "media").iterdir())


def test_noise_by_value_takes_any_reward(base: Path, tmp_path: Path) -> None:
    """A rule without a gradient; by gradient it is refused with the names of those that have one."""
    config = {"search": "noise", "search_noise_by": "value", "search_iterations": 2, "search_size": 2}
    draw(tmp_path / "value", base, reward=[{"rule": "jpeg_size"}], rows=1, **config)


@pytest.mark.parametrize("save", [save_sdxl, save_sd3, save_flux])
def test_searches_on_other_families(tmp_path: Path, save: Any) -> None:
    """With guidance where the family has it."""
    base = save(tmp_path / "base")
    common: dict[str, Any] = {"rows": 1, "guidance_scale": 2.0, "height": 16, "width": 16}
    plain = draw(tmp_path / "plain", base, **common)
    for search, config in SEARCHES.items():
        found = draw(tmp_path / search, base, **common, search=search, **config)
        assert pictures(found) != pictures(plain)


@pytest.mark.parametrize(
    ("config", "reward", "words"),
    [
        ({"search": "best_of_n"}, None, "needs a list of rewards"),
        ({}, BRIGHT, "no use here without a search"),
        (
            {"search": "guidance"},
            [{"rule": "jpeg_size"}],
            "jpeg_size has no gradient; image reward models have",
        ),
        ({"search": "noise"}, [{"rule": "jpeg_size"}], "brightness"),
        ({"search": "guidance", "search_cuts": [0.5]}, BRIGHT, "search_cuts has a use only with the search"),
        ({"search": "candidates", "search_eta": 0.0}, BRIGHT, "need chance in the steps"),
    ],
)
def test_what_cannot_be_used(
    base: Path, config: dict[str, Any], reward: Any, words: str, tmp_path: Path, capsys: Any
) -> None:
    rows = [{"prompt": "a"}]
    folder = make_run(
        tmp_path / "run", "image_generate", base=base, config=QUICK | config, rows=rows, reward=reward
    )
    assert run(folder) == EXIT_BAD_INPUT
    assert words in capsys.readouterr().err


def test_a_row_for_each_prompt(base: Path, tmp_path: Path) -> None:
    found = draw(tmp_path / "run", base, search="best_of_n", search_size=2, samples_per_prompt=2)
    rows = read_rows(found / "result" / "generations.jsonl")
    assert [len(row["candidates"]) for row in rows] == [2, 2]
    assert len(set(pictures(found))) == 4
