"""The job that draws pictures: seeded, resumable, and in a form that can be compared next."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import make_run, metrics, read_rows, run
from training.tuning.errors import EXIT_CANCELLED, EXIT_DONE
from training.tuning.reading import load_groups

ROWS: list[dict[str, Any]] = [{"prompt": "a b", "meta": {"number": 1}}, {"prompt": "c"}, {"prompt": "a b"}]
QUICK = {"num_inference_steps": 2, "guidance_scale": 1.0, "samples_per_prompt": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def pictures(folder: Path) -> dict[str, np.ndarray]:
    media = folder / "result" / "media"
    return {path.name: np.asarray(Image.open(path), dtype=int) for path in sorted(media.iterdir())}


def test_rows_and_pictures(base, tmp_path):
    folder = make_run(tmp_path / "run", "image_generate", base=base, config=QUICK, rows=ROWS)
    assert run(folder) == EXIT_DONE
    rows = read_rows(folder / "result" / "generations.jsonl")
    assert [row["prompt"] for row in rows] == ["a b", "c", "a b"]
    assert rows[0]["meta"]["number"] == 1
    assert all(candidate["source"] == str(base) for row in rows for candidate in row["candidates"])
    assert len({seed for row in rows for seed in row["meta"]["seeds"]}) == 6
    found = pictures(folder)
    assert sorted(found) == sorted(candidate["image"] for row in rows for candidate in row["candidates"])
    assert {picture.shape for picture in found.values()} == {(16, 16, 3)}
    # The result is data as it stands: the next comparison reads it.
    groups = load_groups(
        folder / "result" / "generations.jsonl", modality="image", media=folder / "result" / "media"
    )
    assert [len(group.candidates) for group in groups] == [2, 2, 2]
    assert [row["step"] for row in metrics(folder)] == [4, 6]


def test_pictures_do_not_depend_on_batches_and_other_rows(base, tmp_path):
    one = make_run(tmp_path / "one", "image_generate", base=base, config=QUICK, rows=ROWS)
    other = make_run(
        tmp_path / "other", "image_generate", base=base, config=QUICK | {"batch_size": 1}, rows=ROWS[::-1]
    )
    assert run(one) == run(other) == EXIT_DONE
    ours, theirs = pictures(one), pictures(other)
    # Rows 0 and 2 have the same prompt: which of them comes first does not matter to the pictures.
    for name, same in {"000000-00.png": "000000-00.png", "000001-01.png": "000001-01.png"}.items():
        assert np.abs(ours[name] - theirs[same]).max() <= 1
    another_seed = make_run(tmp_path / "seed", "image_generate", base=base, config=QUICK, rows=ROWS, seed=9)
    assert run(another_seed) == EXIT_DONE
    assert np.abs(pictures(another_seed)["000000-00.png"] - ours["000000-00.png"]).max() > 1


def test_a_stopped_job_goes_on(base, tmp_path, monkeypatch):
    """Cancelled after the first batch; the second attempt draws only the rest, and the result is the same."""
    from training.tuning.methods import image_generate
    from training.tuning.run import Run

    config = QUICK | {"batch_size": 2}
    folders = [
        make_run(tmp_path / name, "image_generate", base=base, config=config, rows=ROWS)
        for name in ("through", "stopped")
    ]
    assert run(folders[0]) == EXIT_DONE
    progress = Run.progress

    def stop(self: Run, step: int, total_steps: int, values: dict[str, float]) -> None:
        self.dir.cancel_file.touch()
        progress(self, step, total_steps, values)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "progress", stop)
        assert run(folders[1]) == EXIT_CANCELLED
    assert not (folders[1] / "result").exists()
    drawn = []
    generate = image_generate.generate_images
    monkeypatch.setattr(
        image_generate,
        "generate_images",
        lambda family, requests, sampling: drawn.extend(requests) or generate(family, requests, sampling),
    )
    assert run(folders[1]) == EXIT_DONE
    assert len(drawn) == 4
    ours, theirs = pictures(folders[0]), pictures(folders[1])
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert [row["step"] for row in metrics(folders[1])] == [2, 4, 6]


def test_the_model_says_how_it_likes_to_be_sampled(base, tmp_path):
    """Empty values come from generation_config.json; given ones win."""
    own = shutil.copytree(base, tmp_path / "own")
    (own / "generation_config.json").write_text(
        '{"num_inference_steps": 2, "guidance_scale": 1.0, "width": 24}'
    )
    rows = ROWS[:1]
    default = make_run(tmp_path / "default", "image_generate", base=own, config={}, rows=rows)
    given = make_run(tmp_path / "given", "image_generate", base=own, config={"width": 16}, rows=rows)
    assert run(default) == run(given) == EXIT_DONE
    assert pictures(default)["000000-00.png"].shape == (16, 24, 3)
    assert pictures(given)["000000-00.png"].shape == (16, 16, 3)


def test_drawing_with_an_adapter(base, tmp_path):
    """The result of Diffusion-DPO is a base: its pictures differ from those of the pipeline below it."""
    tune = {"max_steps": 2, "lora": {"r": 2, "alpha": 2}, "learning_rate": 0.05, "warmup": 0, "samples": 0}
    tuned = make_run(tmp_path / "tuned", "diffusion_dpo", base=base, config=tune)
    assert run(tuned) == EXIT_DONE
    found = []
    for name, model in (("before", base), ("after", tuned / "result")):
        folder = make_run(tmp_path / name, "image_generate", base=model, config=QUICK, rows=ROWS)
        assert run(folder) == EXIT_DONE
        found.append(pictures(folder)["000000-00.png"])
    assert np.abs(found[0] - found[1]).max() > 1


def test_bfloat16_draws_nearly_the_same(base, tmp_path):
    found = []
    for precision in ("fp32", "bf16"):
        folder = make_run(
            tmp_path / precision,
            "image_generate",
            base=base,
            config=QUICK | {"precision": precision},
            rows=ROWS,
        )
        assert run(folder) == EXIT_DONE
        found.append(pictures(folder)["000001-00.png"])
    assert 0 < np.abs(found[0] - found[1]).mean() < 8
