"""Answers before and after training, at fixed prompts and seeds."""

from functools import partial

from training.tuning.data import Group, Text
from training.tuning.run import Run
from training.tuning.text.generation import batches_of, generate
from training.tuning.text.models import TextModel
from training.tuning.text.tokens import GroupTokenizer, Unusable


def write_samples(run: Run, model: TextModel, tokenizer: GroupTokenizer, *, step: int, when: str) -> None:
    """Answer ``config.samples`` prompts into samples.jsonl; ``when`` is ``before`` or ``after``."""
    config = run.config
    prompts = fixed_prompts(run.eval or run.train, tokenizer, count=config.samples)
    encoded = [ids for _, ids in prompts]
    pictures = [tokenizer.pictures(prompt) for prompt, _ in prompts]
    for indices, room in batches_of(
        encoded, context=tokenizer.context, max_new_tokens=config.sample_max_new_tokens, size=len(encoded)
    ):
        run.check_stop()
        write = partial(
            generate,
            model,
            [encoded[index] for index in indices],
            keys=[f"{run.seed}/sample/{index}" for index in indices],
            max_new_tokens=room,
            temperature=config.sample_temperature,
            pictures=[pictures[index] for index in indices] if any(pictures) else (),
        )
        texts = model.inside(write)
        for index, text in zip(indices, texts, strict=True):
            run.sample(step, when, {"prompt": as_json(prompts[index][0]), "text": text})


def fixed_prompts(
    groups: list[Group], tokenizer: GroupTokenizer, *, count: int
) -> list[tuple[Text, list[int]]]:
    """The first ``count`` different prompts that leave room for an answer, with their tokens."""
    found: dict[str, tuple[Text, list[int]]] = {}
    for group in groups:
        if len(found) == count:
            break
        try:
            found.setdefault(str(group.prompt), (group.prompt, tokenizer.prompt_ids(group.prompt)))
        except Unusable:
            continue
    return list(found.values())


def as_json(text: Text) -> object:
    """A text as it stood in the row."""
    return text if isinstance(text, str) else [message.model_dump() for message in text]
