"""Image methods on rewards, as runs: exact at step 0, the same however interrupted, on every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.image_models import save_flux, save_pipeline, save_sd3, save_sdxl
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from training.tuning.__main__ import main
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.windows import window_at
from training.tuning.losses.advantages import remembered_advantages

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
METHODS: dict[str, dict[str, Any]] = {
    "ddpo": {"beta": 0.1},
    "dpok": {"updates": 2, "reward_weight": 1.0, "kl": "step", "max_grad_norm": 1.0},
    "flow_grpo": {"window": 2, "window_every": 1, "same_start": True, "scale": "group"},
}
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


@pytest.mark.parametrize("method", METHODS)
def test_the_first_ratio_is_one_on_every_family(any_base, tmp_path, method):
    """To the bit in bfloat16 too, with guidance, in the micro-batches of drawing; the KL is zero."""
    name = any_base.name.rstrip("0123456789")
    if method != "ddpo" and name not in ("sd", "sd3"):
        pytest.skip("one of each kind of noise is enough")
    folder = make(tmp_path, any_base, method, precision="bf16", max_steps=1, updates=1, beta=0.1)
    assert run(folder) == EXIT_DONE
    (row,) = metrics(folder)
    assert row["ratio_error"] == 0
    assert row["kl"] == 0
    assert row["grad_norm"] > 0


def test_after_an_update_the_ratio_moves(base, tmp_path):
    """The old log-probabilities are those of the policy that drew, in every pass."""
    folder = make(tmp_path, base, "ddpo", max_steps=1, updates=2)
    assert run(folder) == EXIT_DONE
    assert metrics(folder)[0]["ratio_error"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_not_stopping(base, tmp_path, method):
    changes = {"max_steps": 3, "save_every": 1, "eval_every": 1, "samples": 1, "held_out": True}
    through = make(tmp_path / "through", base, method, **changes)
    assert run(through) == EXIT_DONE
    stopped = make(tmp_path / "stopped", base, method, **changes)
    with cancelled_after(2):
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


def test_pictures_do_not_depend_on_how_they_are_batched(base, tmp_path):
    """Each has its own noise, whoever is in its batch."""
    rewards = []
    for size in (1, 3, 8):
        folder = make(tmp_path / str(size), base, "ddpo", micro_batch_size=size, max_steps=1)
        assert run(folder) == EXIT_DONE
        rewards.append(metrics(folder)[0]["reward"])
    assert rewards == pytest.approx([rewards[0]] * 3, rel=1e-5)


def test_full_fine_tuning_keeps_its_reference(base, tmp_path):
    """The KL is to a copy of the start: zero first, then not."""
    folder = make(tmp_path / "run", base, "ddpo", lora=None, learning_rate=1e-3)
    assert run(folder) == EXIT_DONE
    first, second = (row["kl"] for row in metrics(folder))
    assert first == 0 < second


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("flow_grpo", {"noise": "constant"}, "constant is the noise of a flow"),
        ("flow_grpo", {"window": 9}, "fewer than the window"),
        ("flow_grpo", {"window": None}, "have no use without window"),
        ("ddpo", {"height": 17}, "multiples of 4 pixels"),
    ],
)
def test_what_cannot_be_done_is_refused(base, tmp_path, capsys, method, changes, message):
    assert run(make(tmp_path / "run", base, method, **changes)) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_the_window_moves():
    """Size 2 over 4 steps, every second training step: at 0, 0, 1, 1, 2, 2 and anew; late places faster."""
    keys: dict[str, Any] = {"steps": 4, "size": 2, "every": 2, "seed": 0}
    found = [window_at(step, order="progressive", **keys).start for step in range(1, 9)]
    assert found == [0, 0, 1, 1, 2, 2, 0, 0]
    keys |= {"steps": 21, "size": 1}
    late = [window_at(step, order="decaying", **keys).start for step in range(1, 42)]
    assert [late.count(place) for place in (0, 13, 20)] == [2, 2, 1]  # ⌈2 exp(-0.7)⌉ = 1 at place 20
    anywhere = {window_at(step, order="random", **keys).start for step in range(1, 1000)}
    assert anywhere == set(range(21))


def test_advantages_by_hand():
    """DDPO: before a prompt has its history, against the batch; then against the prompt's own rewards."""
    memory: dict[str, list[float]] = {}
    first = remembered_advantages([1.0, 3.0], ["a", "b"], memory, size=2)
    assert first == pytest.approx([-1, 1], abs=1e-5)  # mean 2, deviation 1
    second = remembered_advantages([2.0, 9.0], ["a", "b"], memory, size=2)
    assert memory == {"a": [1.0, 2.0], "b": [3.0, 9.0]}
    assert second == pytest.approx([1, 1], abs=1e-5)  # 1.5 ± 0.5, 6 ± 3
    remembered_advantages([4.0], ["a"], memory, size=2)
    assert memory["a"] == [2.0, 4.0]
