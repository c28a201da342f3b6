"""Full training of a reward model holds the embeddings that its data reads, and learns the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.tuning.text_models import save_causal, save_encoder
from tests.tuning.text_runs import make_run, metrics, pair_rows, result_weights, run
from training.tuning.rundir import RunDir
from training.tuning.text import vocabulary
from training.tuning.text.vocabulary import ReadRows

FULL: dict[str, Any] = {
    "lora": None,
    "max_length": 128,
    "log_every": 1,
    "batch_size": 4,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "eval_every": 2,
    "normalise": "zero_mean",
}
WORDS = {
    "llama": "model.embed_tokens.weight",
    "bert": "bert.embeddings.word_embeddings.weight",
}


@pytest.fixture
def base(architecture: str, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    return save_encoder(folder) if architecture == "bert" else save_causal(folder, architecture)


def whole(*_: Any) -> None:
    """In place of `narrow`."""


def weights_after(folder: Path, base: Path, **changes: Any) -> tuple[dict[str, Tensor], int]:
    """The result, and how many rows of the vocabulary the checkpoint before it holds."""
    made = make_run(folder, "reward_model", base=base, config=FULL | changes, held_out=pair_rows(4, seed=9))
    assert run(made) == 0
    trained = load_file(RunDir(made).checkpoints()[-1] / "weights.safetensors")
    (rows,) = {len(value) for name, value in trained.items() if name.removeprefix("model.") in WORDS.values()}
    return result_weights(made), rows


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_the_same_is_learnt(
    architecture: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and metrics, held-out ones too; rows that no text has are those of the base to the bit."""
    monkeypatch.setattr(vocabulary, "WORTH_IT", 1.0)  # there are few words
    narrowed, rows = weights_after(tmp_path / "narrowed", base)
    with monkeypatch.context() as patch:
        patch.setattr("training.tuning.methods.reward_model.narrow", whole)
        plain, all_rows = weights_after(tmp_path / "plain", base)
    assert rows < all_rows == len(plain[WORDS[architecture]])
    assert narrowed.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(narrowed[name], value, rtol=0, atol=1e-6, msg=name)
    for own, other in zip(metrics(tmp_path / "narrowed"), metrics(tmp_path / "plain"), strict=True):
        assert own == pytest.approx(other, abs=1e-5)
    was = load_file(base / "model.safetensors")[WORDS[architecture].removeprefix("bert.")]
    is_as_it_was = (narrowed[WORDS[architecture]] == was).all(dim=1)
    assert 0 < (~is_as_it_was).sum() <= rows
    assert is_as_it_was.sum() >= all_rows - rows


@pytest.mark.parametrize("architecture", ["bert"])
@pytest.mark.parametrize("changes", [{"weight_decay": 0.1}, {"optimizer": "adafactor"}])
def test_where_unread_rows_would_change_all_are_trained(
    base: Path, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr(
        "training.tuning.methods.reward_model.widen",
        lambda model: seen.append(model.inner.get_input_embeddings()),
    )
    made = make_run(tmp_path / "run", "reward_model", base=base, config=FULL | changes | {"eval_every": None})
    assert run(made) == 0
    assert type(seen[0]) is nn.Embedding


def test_padding_is_not_trained() -> None:
    """As by torch: the row of the padding token gets no gradient. A token that is not held is an error."""
    whole = nn.Embedding(10, 3, padding_idx=4)
    rows = ReadRows(whole, torch.tensor([2, 4, 7]))
    for module in (whole, rows):
        module(torch.tensor([[7, 4, 2, 7]])).sum().backward()
    assert whole.weight.grad is not None
    torch.testing.assert_close(rows.weight.grad, whole.weight.grad[[2, 4, 7]])
    assert rows.weight.grad[1].abs().sum() == 0
    with pytest.raises(IndexError):
        rows(torch.tensor([3]))
