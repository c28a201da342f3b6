"""Image methods on rewards, as runs: exact at step 0, the same however interrupted, on every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.image_models import save_flux, save_pipeline, save_sd3, save_sdxl
from tests.tuning.image_runs import make_run, metrics, run
from training.tuning.__main__ import main
from training.tuning.errors import EXIT_CANCELLED, EXIT_DONE
from training.tuning.run import Run

KINDS: dict[str, Any] = {
    "sd": save_pipeline,
    "sd-v": lambda folder: save_pipeline(folder, prediction_type="v_prediction"),
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "flux": save_flux,
}
LORA = {"r": 4, "alpha": 4, "target_modules": "all-linear"}
QUICK: dict[str, Any] = {
    "max_steps": 2,
    "batch_size": 2,
    "num_generations": 4,
    "micro_batch_size": 4,
    "lora": LORA,
    "learning_rate": 1e-3,
    "samples": 0,
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "height": 16,
    "width": 16,
}
METHODS: dict[str, dict[str, Any]] = {"ddpo": {}}
BRIGHT = [{"rule": "brightness"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module", params=KINDS)
def any_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


def make(folder: Path, base: Path, method: str, *, prompts: str = "abcd", **changes: Any) -> Path:
    rows = [{"prompt": letter} for letter in prompts]
    held_out = [{"prompt": "x y"}, {"prompt": "z"}] if changes.pop("held_out", False) else None
    config = QUICK | METHODS[method] | changes
    return make_run(folder, method, base=base, config=config, rows=rows, held_out=held_out, reward=BRIGHT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted(folder.glob("checkpoint-*"))[-1] / "weights.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_the_first_ratio_is_one_on_every_family(any_base, tmp_path, method, precision):
    """To the bit, with guidance, in the micro-batches of drawing; afterwards it is not."""
    folder = make(tmp_path / "run", any_base, method, updates=2, precision=precision)
    assert run(folder) == EXIT_DONE
    first, second = metrics(folder)
    assert "reward" in first
    assert second["ratio_error"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_not_stopping(base, tmp_path, method, monkeypatch):
    changes = {"max_steps": 4, "save_every": 1, "eval_every": 2, "samples": 1, "held_out": True}
    through = make(tmp_path / "through", base, method, **changes)
    assert run(through) == EXIT_DONE
    stopped = make(tmp_path / "stopped", base, method, **changes)
    end_step = Run.end_step

    def stop_at_3(self: Run, step: int) -> None:
        if step == 3:
            self.dir.cancel_file.touch()
        end_step(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "end_step", stop_at_3)
        assert run(stopped) == EXIT_CANCELLED
    assert run(stopped) == EXIT_DONE
    for name, value in weights(through).items():
        assert torch.equal(value, weights(stopped)[name])
    for name in ("reward", "loss", "eval/reward"):
        found = [[row[name] for row in metrics(folder) if name in row] for folder in (through, stopped)]
        assert found[0] == found[1]
    assert not (through / "cache").exists()


def test_inspect_shows_the_prompts(base, tmp_path):
    folder = make(tmp_path / "run", base, "ddpo", prompts="ab")
    assert main(["inspect", str(folder)]) == EXIT_DONE
