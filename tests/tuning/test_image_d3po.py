"""D3PO: its loss by hand, pictures that can be drawn again, and runs."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import cancelled_after, make_run, metrics, read_rows, run, write_rows
from tests.tuning.test_image_direct import LORA, values
from training.tuning.data import Group
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.chains import dominant, record_of
from training.tuning.losses.d3po import d3po_loss

QUICK: dict[str, Any] = {
    "max_steps": 4,
    "batch_size": 4,
    "lora": LORA,
    "learning_rate": 1e-3,
    "warmup": 0,
    "log_every": 1,
    "save_every": 2,
    "samples": 0,
}


@pytest.mark.system("s000-052")
def test_loss_by_hand():
    """At the reference ln 2, with slopes -β/2 and β/2; a log-ratio of 0.2 is beyond 1 ± 0.1, with none. With
    ratios 1.05 and 0.95 and β = 2 the logit is 2 ln (1.05 / 0.95).
    """
    chosen, rejected, zero = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(3))
    loss = d3po_loss(chosen, rejected, zero.detach(), zero.detach(), beta=0.5, clip=0.1)
    loss.sum().backward()
    assert (loss.item(), chosen.grad.item(), rejected.grad.item()) == (
        pytest.approx(math.log(2)),
        -0.25,
        0.25,
    )
    far = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    d3po_loss(far, zero, zero, zero, beta=0.5, clip=0.1).sum().backward()
    assert far.grad.item() == 0
    ratios = [torch.tensor([ratio], dtype=torch.float64).log() for ratio in (1.05, 0.95)]
    moved = d3po_loss(*ratios, zero, zero, beta=2.0, clip=0.1)
    assert moved.item() == pytest.approx(math.log(1 + (0.95 / 1.05) ** 2))


def test_loss_stays_finite_far_away():
    far = torch.tensor([300.0, -300.0], requires_grad=True)
    loss = d3po_loss(far, -far, torch.zeros(2), torch.zeros(2), beta=1.0, clip=0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(far.grad).all()


def row(aspects: list[dict[str, Any]]) -> Group:
    judgements = [{"aspects": {name: {"choice": choice} for name, choice in one.items()}} for one in aspects]
    return Group.model_validate(
        {"prompt": "a", "candidates": [{"image": "0"}, {"image": "1"}], "judgements": judgements}
    )


@pytest.mark.system("s000-052")
def test_only_a_dominant_picture_is_preferred():
    """Chosen in one aspect and nowhere beaten: a preference. Split, ties, both bad or unanswered: none."""
    found = dominant(
        row(
            [
                {"looks": 1, "match": 1},
                {"looks": "tie", "match": 0},
                {"looks": 1, "match": 0},
                {"looks": "tie", "match": "tie"},
                {"looks": 0, "match": "both_bad"},
                {"looks": 0},
            ]
        ),
        ["looks", "match"],
    )
    assert [judgement.choice for judgement in found.judgements] == [1, 0, None, None, None, None]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline, and a run that drew two recorded pictures of four prompts with it."""
    base = save_pipeline(tmp_path_factory.mktemp("pipeline"))
    config = {
        "samples_per_prompt": 2,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "eta": 1.0,
        "batch_size": 3,
    }
    rows = [{"prompt": prompt, "meta": {"row": number}} for number, prompt in enumerate("abcd")]
    folder = tmp_path_factory.mktemp("drawn")
    make_run(folder, "image_generate", base=base, config=config, rows=rows)
    assert run(folder) == EXIT_DONE
    return base, folder / "result"


def start(folder: Path, drawn: tuple[Path, Path], config: dict[str, Any], **options: Any) -> Path:
    """A run on the recorded pictures, the first of each prompt chosen."""
    shutil.copytree(drawn[1] / "media", folder / "data" / "media")
    rows = [
        {
            **row,
            "candidates": [{"image": one["image"]} for one in row["candidates"]],
            "judgements": [{"choice": 0}],
        }
        for row in read_rows(drawn[1] / "generations.jsonl")
    ]
    return make_run(folder, "d3po", **{"base": drawn[0], "config": config, "rows": rows} | options)


def test_records_say_how_pictures_were_drawn(drawn):
    rows = read_rows(drawn[1] / "generations.jsonl")
    record = rows[0]["meta"]["chains"]
    assert record["seeds"] == rows[0]["meta"]["seeds"]
    assert (record["num_inference_steps"], record["eta"], record["height"]) == (3, 1.0, 16)
    group = Group.model_validate(
        {"prompt": "a", "candidates": [{"image": "0"}] * 3, "meta": {"chains": record}}
    )
    assert record_of(group) is None  # two seeds, three pictures


@pytest.mark.system("s000-052")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_step_0_is_exact(drawn, tmp_path, lora, precision):
    """All ratios are 1 to the bit, in chains that were drawn in other batches."""
    config = QUICK | {"max_steps": 1, "lora": lora, "precision": precision}
    if precision == "bf16":
        config |= {"batch_size": 2}
    assert run(start(tmp_path / "run", drawn, config)) == EXIT_DONE
    first = metrics(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert first["rewards/margin"] == first["rewards/chosen"] == 0
    assert first["rewards/accuracy"] == 0.5


@pytest.mark.system("s000-052")
def test_it_learns_at_every_step_of_the_chains(drawn, tmp_path):
    config = QUICK | {"max_steps": 12, "lora": None, "learning_rate": 1e-3, "beta": 5.0}
    assert run(start(tmp_path / "run", drawn, config)) == EXIT_DONE
    found = values(tmp_path / "run", "loss", "rewards/accuracy")
    assert found[-1][0] < 0.95 * math.log(2)
    assert sum(row[1] for row in found[-4:]) / 4 > 0.6


def test_resuming_equals_not_stopping(drawn, tmp_path):
    config = QUICK | {"step_share": 0.7, "batch_size": 2}
    folders = [tmp_path / "through", tmp_path / "stopped"]
    for folder in folders:
        start(folder, drawn, config)
    assert run(folders[0]) == EXIT_DONE
    with cancelled_after(3):
        assert run(folders[1]) == EXIT_CANCELLED
    assert run(folders[1]) == EXIT_DONE
    assert values(folders[0], "loss", "grad_norm") == values(folders[1], "loss", "grad_norm")
    found = [load_file(sorted(folder.glob("checkpoint-*"))[-1] / "weights.safetensors") for folder in folders]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_pictures_of_another_model_are_refused(drawn, tmp_path, capsys):
    """Another base, or changed pictures: named with their row. Rows without a record are dropped."""
    folder = start(tmp_path / "other", drawn, QUICK)
    first = read_rows(folder / "data" / "train.jsonl")[1]["candidates"][0]["image"]
    Image.new("RGB", (16, 16), "white").save(folder / "data" / "media" / first)
    assert run(folder) == EXIT_BAD_INPUT
    assert f"line 2, meta.chains: {first} is not what this base draws" in capsys.readouterr().err
    bare = start(tmp_path / "bare", drawn, QUICK | {"pareto": ["looks"]})
    assert run(bare) == EXIT_BAD_INPUT
    rows = [{**one, "meta": {}} for one in read_rows(folder / "data" / "train.jsonl")]
    write_rows(folder / "data" / "train.jsonl", rows)
    from training.tuning.__main__ import main

    assert main(["inspect", str(folder)]) == EXIT_DONE
    assert json.loads((folder / "inspect.json").read_text())["dropped"] == {
        "no record of how the pictures were drawn; draw them with eta": 4
    }
