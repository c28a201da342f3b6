"""Drawing with a model first and with what was tuned from it afterwards (ImageReFL)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import make_run, read_rows, run
from training.tuning.config import LoraConfig
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE
from training.tuning.images.loading import load_for_training

PLAIN = {"num_inference_steps": 4, "guidance_scale": 2.0, "height": 16, "width": 16}
ROWS = [{"prompt": "a b"}, {"prompt": "c"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that moves pictures."""
    lora = LoraConfig(r=4, alpha=4, target_modules=["to_q", "to_k", "to_v"])
    policy = load_for_training(str(base), lora=lora, keep_copy=False, seed=0, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.trained.values():
            weight.add_(1.0 * torch.randn(weight.shape, generator=generator))
    folder = tmp_path_factory.mktemp("tuned")
    policy.save(folder)
    (folder / "metadata.json").write_text(json.dumps({"base": str(base)}))
    return folder


def drawn(folder: Path, base: Path, **config: object) -> list[np.ndarray]:
    made = make_run(folder, "image_generate", base=base, config=PLAIN | config, rows=ROWS)
    assert run(made) == EXIT_DONE
    rows = read_rows(made / "result" / "generations.jsonl")
    media = made / "result" / "media"
    return [np.asarray(Image.open(media / row["candidates"][0]["image"])).astype(int) for row in rows]


@pytest.mark.system("s000-016")
def test_the_ends_are_the_two_models(base, tuned, tmp_path):
    """All steps by the model below: its own pictures. None: the tuned one's. Half: neither's. Each as the
    pipelines themselves draw them, to the rounding of a byte.
    """
    below, above = drawn(tmp_path / "below", base), drawn(tmp_path / "above", tuned)
    given = {"combine_guidance": 2.0}
    ends = {share: drawn(tmp_path / str(share), tuned, combine=share, **given) for share in (0.0, 0.5, 1.0)}
    for at in range(len(ROWS)):
        assert np.abs(below[at] - above[at]).max() > 2
        assert np.abs(ends[1.0][at] - below[at]).max() <= 1
        assert np.abs(ends[0.0][at] - above[at]).max() <= 1
        for end in (below, above):
            assert np.abs(ends[0.5][at] - end[at]).max() > 1


def test_what_it_needs(base, tuned, tmp_path, capsys):
    folder = make_run(
        tmp_path / "base", "image_generate", base=base, config=PLAIN | {"combine": 0.5}, rows=ROWS
    )
    assert run(folder) == EXIT_BAD_INPUT
    assert "needs an adapter as base" in capsys.readouterr().err
    for key in ({"combine": 0.5, "eta": 1.0}, {"combine_guidance": 3.0}):
        name = "-".join(key)
        folder = make_run(tmp_path / name, "image_generate", base=tuned, config=PLAIN | key, rows=ROWS)
        assert run(folder) == EXIT_BAD_INPUT
        assert "combine" in capsys.readouterr().err
