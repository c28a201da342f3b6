"""Reference log-probabilities of tokens: computed once, in the micro-batches of the plan, in float32."""

import hashlib
import json
import logging
from collections.abc import Sequence

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.tuning.plan import MicroBatch
from training.tuning.processes import leads, shared
from training.tuning.run import Run
from training.tuning.text.batches import make_batch
from training.tuning.text.dataset import Example
from training.tuning.text.models import Frozen, TextModel

logger = logging.getLogger("training.tuning")


@torch.no_grad()
def reference_logprobs(
    run: Run,
    policy: TextModel,
    frozen: Frozen,
    examples: Sequence[Example],
    micro_batches: Sequence[MicroBatch],
    *,
    name: str,
) -> dict[int, Tensor]:
    """Log-probabilities of the answers' tokens of every example in the micro-batches, by its index.

    Kept in ``reference-{name}.safetensors`` for a run that resumes; values made for other tokens, micro-
    batches or another run are computed anew.
    """
    path = run.dir.path / f"reference-{name}.safetensors"
    key = _key(run, examples, micro_batches)
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == {"key": key}:
                return {int(index): file.get_tensor(index).to(policy.device) for index in file.keys()}  # noqa: SIM118, not a dict

    def read(numbered: tuple[int, MicroBatch]) -> Tensor:
        number, micro = numbered
        run.check_stop()
        if number % 100 == 0:
            logger.info("reference log-probabilities, %s: %d of %d", name, number, len(micro_batches))
        batch = make_batch([examples[index].tokens for index in micro], causal=True, device=policy.device)
        with frozen():
            return policy.token_logprobs(batch)

    values: dict[int, Tensor] = {}
    found = shared(list(enumerate(micro_batches)), read)
    for micro, logprobs in zip(micro_batches, found, strict=True):
        tokens = [examples[index].tokens.answer_tokens for index in micro]
        values |= dict(zip(micro, logprobs.split(tokens), strict=True))
    if not leads():
        return values
    draft = path.with_name(f".{path.name}.draft")
    save_file(
        {str(index): value.cpu().clone() for index, value in values.items()}, draft, metadata={"key": key}
    )
    draft.replace(path)
    return values


def _key(run: Run, examples: Sequence[Example], micro_batches: Sequence[MicroBatch]) -> str:
    tokens = [
        [examples[index].tokens.prefix, examples[index].tokens.blocks]
        for micro in micro_batches
        for index in micro
    ]
    content = json.dumps([run.fingerprint, list(micro_batches), tokens])
    return hashlib.sha256(content.encode()).hexdigest()
