"""A check at load: does reading a group at once give what the model itself gives, one candidate at a time?

It catches every architecture whose attention, positions, logits or head do more than the layout knows about;
such a model is refused instead of being trained on wrong numbers.
"""

import torch
from torch import Tensor

from training.tuning.errors import BadInput
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.batches import make_batch
from training.tuning.text.models import Kind, TextModel
from training.tuning.text.pictures import PictureReader
from training.tuning.text.tokens import EncodedGroup

# Largest difference, in nats or points of score, between two orders of the same sums.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 0.3}


@torch.no_grad()
def check_reading(model: TextModel, *, kind: Kind) -> None:
    """BadInput if a small random group reads differently from its candidates alone."""
    group = _random_group(model)
    batch = make_batch(
        [group], causal=model.layout != "separate", device=model.device, position_offset=model.position_offset
    )
    got = model.token_logprobs(batch) if kind == "causal" else model.outputs(batch)[:, -1]
    expected = _alone(model, group, kind=kind)
    difference = float((got.float() - expected.float()).abs().max())
    if not difference <= TOLERANCE[model.dtype]:
        raise BadInput(
            f"{type(model.inner).__name__} gives other values for a group than for its candidates alone "
            f"(difference {difference:.3g}); this architecture is not supported",
            file=model.base,
        )


def _alone(model: TextModel, group: EncodedGroup, *, kind: Kind) -> Tensor:
    """The same values from the model's own forward pass, one candidate after the other."""
    values = []
    for number, block in enumerate(group.blocks):
        ids = torch.tensor([group.prefix + block], device=model.device)
        types = (
            {"token_type_ids": torch.tensor([group.types[number]], device=model.device)}
            if group.types
            else {}
        )
        with (
            ordinary_attention(model.inner),
            torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16),
        ):
            logits = model.model(input_ids=ids, **types).logits.float()
        if kind == "reward":
            values.append(logits[0, -1:])
        else:
            answer = len(group.prefix) + group.starts[number]
            log_p = logits[0].log_softmax(-1)
            values.append(log_p[answer - 1 : -1].gather(1, ids[0, answer:, None])[:, 0])
    return torch.cat(values)


def _random_group(model: TextModel) -> EncodedGroup:
    """Tokens from the ordinary vocabulary, the same every time; the end token last, as in training."""
    generator = torch.Generator().manual_seed(0)
    special = set(model.tokenizer.all_special_ids)
    if model.processor is not None:
        special.add(PictureReader(model.processor).token_id)
    ordinary = [token for token in range(min(len(model.tokenizer), 2048)) if token not in special]

    def draw(count: int) -> list[int]:
        picks = torch.randint(len(ordinary), (count,), generator=generator)
        return [ordinary[int(pick)] for pick in picks]

    if model.layout == "shared":
        return EncodedGroup(prefix=draw(7), blocks=[draw(5), draw(4)], starts=[0, 1])
    blocks = [draw(9), draw(6)]
    has_types = "token_type_ids" in model.tokenizer.model_input_names and model.layout == "separate"
    types = [[0] * 4 + [1] * (len(block) - 4) for block in blocks] if has_types else None
    return EncodedGroup(prefix=[], blocks=blocks, starts=[4, 4], types=types)
