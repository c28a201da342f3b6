"""Sampling for rollouts: the prompt read once, and what an answer was sampled with."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_models import save_causal
from training.tuning.text.batches import make_batch
from training.tuning.text.generation import sample_answers
from training.tuning.text.loading import load_for_use
from training.tuning.text.tokens import EncodedGroup

SAMPLING: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0}
PROMPTS = [[40, 41, 42, 43, 44, 45], [50, 51], [60]]


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def model(request: Any, tmp_path_factory: Any) -> Any:
    folder: Path = save_causal(tmp_path_factory.mktemp(request.param), request.param)
    return load_for_use(str(folder), kind="causal", precision="fp32", device=torch.device("cpu"))


def test_a_prompt_read_once_changes_no_answer(model: Any) -> None:
    keys = [f"{prompt}/{number}" for prompt in range(3) for number in range(4)]
    shared = sample_answers(model, PROMPTS, keys=keys, **SAMPLING)
    repeated = [prompt for prompt in PROMPTS for _ in range(4)]
    alone = sample_answers(model, repeated, keys=keys, **SAMPLING)
    assert [answer.ids for answer in shared] == [answer.ids for answer in alone]
    assert len({tuple(answer.ids) for answer in shared}) > 3


def test_sampling_logprobs_are_those_that_training_computes(model: Any) -> None:
    """To 1e-4: the cache sums in another order than one pass over the packed row does."""
    keys = [f"{prompt}/{number}" for prompt in range(3) for number in range(4)]
    answers = sample_answers(model, PROMPTS, keys=keys, **SAMPLING)
    groups = [
        EncodedGroup(prefix=prompt, blocks=[one.ids for one in answers[4 * at : 4 * at + 4]], starts=[0] * 4)
        for at, prompt in enumerate(PROMPTS)
    ]
    with torch.no_grad():
        computed = model.token_logprobs(make_batch(groups, causal=True))
    sampled = torch.tensor([value for answer in answers for value in answer.logprobs])
    torch.testing.assert_close(computed, sampled, atol=1e-4, rtol=1e-4)


def test_keys_must_fit_the_prompts(model: Any) -> None:
    with pytest.raises(ValueError, match="4 keys for 3 prompts"):
        sample_answers(model, PROMPTS, keys=list("abcd"), **SAMPLING)
