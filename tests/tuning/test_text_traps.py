"""Traps of other trainers that concern text and that no other test would notice; docs/traps.md lists all."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tuning.text_models import save_causal, tiny_tokenizer
from tests.tuning.text_runs import QUICK, make_run, metrics, run
from training.tuning.data import Group, Message
from training.tuning.methods.grpo import token_weights
from training.tuning.pairs import Pair
from training.tuning.run import Run
from training.tuning.spec import identity_of
from training.tuning.text.dataset import Example
from training.tuning.text.models import TextModel
from training.tuning.text.pairs import pair_values
from training.tuning.text.token_weights import token_weights as pair_weights
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer
from training.tuning.text.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]


def test_an_end_token_that_also_pads_is_learnt() -> None:
    """pad = eos: where labels are masked by the padding token, the end of an answer is never learnt."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    end = tokenizer.eos_token_id
    reader = GroupTokenizer(tokenizer, context=100, end_ids=[end])
    group = reader.encode("Why?", ["One", "Two is more"])
    assert [answer[-1] for answer in group.answers] == [end, end]
    assert [answer.count(end) for answer in group.answers] == [1, 1]


def test_system_prompts_and_earlier_turns_are_prompt() -> None:
    """They stand once, in the shared prefix, in their order; nothing of them is learnt."""
    reader = GroupTokenizer(tiny_tokenizer(), context=200, end_ids=[2])
    turns = [("system", "Be kind."), ("user", "Why?"), ("assistant", "No."), ("user", "Why not?")]
    prompt = [Message(role=role, content=content) for role, content in turns]
    group = reader.encode(prompt, ["Well", "Because"])
    text = str(reader.tokenizer.decode(group.prefix))
    assert text == "<|system|>Be kind.<|user|>Why?<|assistant|>No.</s><|user|>Why not?<|assistant|>"
    # The end token of the earlier turn belongs to the prompt: each answer has exactly one of its own.
    assert [answer.count(2) for answer in group.answers] == [1, 1]
    assert [reader.tokenizer.decode(answer) for answer in group.answers] == ["Well</s>", "Because</s>"]


def test_length_desensitising_reaches_the_reference() -> None:
    """LD-DPO, Eq. 8 of arXiv:2409.06411: both models' surplus tokens weigh alpha, not the policy's alone."""
    tokens = EncodedGroup(prefix=[1], blocks=[[2, 3, 4, 5], [6, 7]], starts=[0, 0])
    example = Example(Group(prompt=""), tokens, [Pair(0, 1)])
    policy = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    reference = torch.tensor([-2.0, -2.0, -5.0, -8.0, -5.0, -5.0])
    weigh = pair_weights(SimpleNamespace(ld_alpha=0.5, focus="all", rest_weight=0.0))
    values = pair_values(policy, reference, [example], token_weights=weigh)
    # Chosen: the log-ratio (1 + 0) + ½ (2 + 4); the reference (−2 − 2) + ½ (−5 − 8).
    assert values.chosen.tolist() == [4.0]
    assert values.reference_chosen.tolist() == [-10.5]
    assert values.rejected.tolist() == [-1.0]


def test_what_a_long_answer_weighs() -> None:
    """Answers of 1 and 3 tokens: GRPO gives each answer ½, so that long wrong answers cost little per token;
    DAPO and Dr. GRPO give every token the same.
    """
    lengths = torch.tensor([1.0, 3.0])
    step: Any = SimpleNamespace(
        lengths=lengths, old=torch.zeros(4), spread=lambda values: values.repeat_interleave(lengths.long())
    )
    micro: Any = SimpleNamespace(tokens=slice(0, 4))
    config = SimpleNamespace(max_new_tokens=10)
    found = {
        name: token_weights(step, micro, VARIANTS[name], config).tolist()
        for name in ("grpo", "dapo", "dr_grpo")
    }
    assert found["grpo"] == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert found["dapo"] == pytest.approx([1 / 4] * 4)
    assert found["dr_grpo"] == pytest.approx([1 / 20] * 4)


def test_another_base_has_another_identity(tmp_path: Path) -> None:
    """Of the same shapes, hence files of the same size: cached references of the old one would be wrong."""
    one, other = save_causal(tmp_path / "one", seed=1), save_causal(tmp_path / "two", seed=2)
    sizes = [(one / "model.safetensors").stat().st_size, (other / "model.safetensors").stat().st_size]
    assert sizes[0] == sizes[1]
    assert identity_of(str(one)) != identity_of(str(other))
    copied = save_causal(tmp_path / "elsewhere", seed=1)
    assert identity_of(str(one)) == identity_of(str(copied))


@pytest.mark.parametrize("what", ["weights", "data", "nothing"])
def test_cached_references_are_those_of_this_base_and_data(
    what: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """A run that is started again computes them anew if, and only if, what they depend on changed."""
    base = save_causal(tmp_path / "base", seed=1)
    folder = make_run(tmp_path / "run", "dpo", base=base, config=QUICK | {"max_steps": 2})

    def stop(self: Run, *args: Any, **options: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "begin", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    cached = load_file(folder / "reference-train.safetensors")
    if what == "weights":
        weights = load_file(base / "model.safetensors")
        weights["lm_head.weight"] = weights["lm_head.weight"] * 1.5
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    if what == "data":
        file = folder / "data" / "train.jsonl"
        file.write_text(file.read_text().replace("password", "passport"))
    read: list[int] = []
    reading = TextModel.token_logprobs

    def count(self: TextModel, *args: Any, **options: Any) -> Any:
        read.append(1)
        return reading(self, *args, **options)

    monkeypatch.setattr(TextModel, "token_logprobs", count)
    assert run(folder) == 0
    assert metrics(folder)[0]["rewards/margin"] == 0.0  # stale values would not be those of the policy
    again = load_file(folder / "reference-train.safetensors")
    same = all(torch.equal(value, again[name]) for name, value in cached.items())
    assert same == (what == "nothing")
    # A look at how the model reads, a step each, and the references' two micro-batches.
    assert len(read) == (3 if what == "nothing" else 5)


def test_every_test_of_the_list_is_there() -> None:
    """docs/traps.md names tests; each must exist."""
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", (ROOT / "docs" / "traps.md").read_text())
    assert len(named) > 30
    for module, name in named:
        tree = ast.parse((ROOT / "tests" / "tuning" / f"{module}.py").read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in there, f"{module}.py has no {name}"
