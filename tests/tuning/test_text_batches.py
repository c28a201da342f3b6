"""Group batches against the padded path, which exists only here, as the oracle."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.tuning.text_models import config_of, save_causal, sharpen, tiny_tokenizer
from training.tuning.errors import BadInput
from training.tuning.text.attention import ordinary_attention, visible
from training.tuning.text.batches import Segment, make_batch
from training.tuning.text.loading import load_for_training, load_for_use
from training.tuning.text.models import TextModel, layout_of
from training.tuning.text.probe import check_reading
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer

ARCHITECTURES = ["llama", "qwen2", "gpt2"]
CPU = torch.device("cpu")


def open_model(folder: Path, dtype: torch.dtype = torch.float32) -> TextModel:
    """All weights trained, in ``dtype``."""
    model = load_for_training(
        str(folder), kind="causal", lora=None, lora_was_set=False, precision="fp32", device=CPU
    )
    model.model.to(dtype)
    return replace(model, dtype=dtype)


def some_groups(model: TextModel) -> list[EncodedGroup]:
    """Groups with one, two and three candidates of different lengths."""
    tokenizer = GroupTokenizer(model.tokenizer, context=200, end_ids=model.end_ids)
    prompts = ["How do I reset it?", "Write a short answer to the question below, please.", "Why"]
    answers = [
        ["Open the settings."],
        ["Press", "Press the button, then wait."],
        ["One", "Two is more", "A 3 b c"],
    ]
    return [tokenizer.encode(prompt, list(given)) for prompt, given in zip(prompts, answers, strict=True)]


def padded_logprobs(model: TextModel, groups: list[EncodedGroup]) -> Tensor:
    """The oracle: every candidate with its own copy of the prompt, padded on the right, full logits."""
    rows = [group.prefix + block for group in groups for block in group.blocks]
    starts = [len(group.prefix) + start for group in groups for start in group.starts]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [3] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with ordinary_attention(model.inner):
        log_p = model.inner(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    picked = log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return torch.cat([picked[n, starts[n] - 1 : len(rows[n]) - 1] for n in range(len(rows))])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-10)])
def test_shared_equals_padded(
    architecture: str, dtype: torch.dtype, tolerance: float, causal_folder: Callable[[str], Path]
) -> None:
    model = open_model(causal_folder(architecture), dtype)
    groups = some_groups(model)
    got = model.token_logprobs(make_batch(groups, causal=True))
    expected = padded_logprobs(model, groups)
    assert got.dtype == dtype
    assert (got - expected).abs().max() <= tolerance
    # The oracle is sensitive to what the candidates see: another prompt changes the values.
    other = padded_logprobs(model, [replace(one, prefix=one.prefix[::-1]) for one in groups])
    assert (other - expected).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_padded(architecture: str, causal_folder: Callable[[str], Path]) -> None:
    def gradients(read: Callable[[TextModel, list[EncodedGroup]], Tensor]) -> dict[str, Tensor]:
        model = open_model(causal_folder(architecture))
        values = read(model, some_groups(model))
        (values * torch.linspace(-1, 2, len(values))).sum().backward()
        return {name: value.grad for name, value in model.model.named_parameters()}

    got = gradients(lambda model, groups: model.token_logprobs(make_batch(groups, causal=True)))
    expected = gradients(padded_logprobs)
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_at_a_time_equals_together(architecture: str, causal_folder: Callable[[str], Path]) -> None:
    model = open_model(causal_folder(architecture), torch.float64)
    groups = some_groups(model)
    together = model.logprobs(make_batch(groups, causal=True))
    alone = torch.cat([model.logprobs(make_batch([group], causal=True)) for group in groups])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_candidates_do_not_see_each_other(llama: Path) -> None:
    model = open_model(llama, torch.float64)
    group = some_groups(model)[2]
    changed = replace(group, blocks=[group.blocks[0], group.blocks[1][::-1], group.blocks[2]])
    before = model.logprobs(make_batch([group], causal=True))
    after = model.logprobs(make_batch([changed], causal=True))
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]], rtol=0, atol=1e-12)
    assert (before[1] - after[1]).abs() > 1e-3


def test_visible_by_hand() -> None:
    """A prefix of two and blocks of two and one; a window of two hides what is two positions back."""
    segment = Segment(start=0, prefix=2, blocks=(2, 1))
    everything = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert visible(segment, window=None, device=CPU).int().tolist() == everything
    narrow = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]
    assert visible(segment, window=2, device=CPU).int().tolist() == narrow


@pytest.mark.parametrize("window", [3, 8])
def test_sliding_windows_count_logical_positions(window: int, tmp_path: Path) -> None:
    layers = ["sliding_attention", "full_attention"]
    options = {"use_sliding_window": True, "sliding_window": window, "layer_types": layers}
    model = open_model(save_causal(tmp_path, "qwen2", **options), torch.float64)
    groups = some_groups(model)
    got = model.token_logprobs(make_batch(groups, causal=True))
    torch.testing.assert_close(got, padded_logprobs(model, groups), rtol=0, atol=1e-10)
    wide = open_model(save_causal(tmp_path / "wide", "qwen2"), torch.float64)
    assert (got - wide.token_logprobs(make_batch(groups, causal=True))).abs().max() > 1e-3


def test_what_attention_cannot_honour_is_refused(tmp_path: Path) -> None:
    """Gemma 2 caps its attention scores, which the layout's attention does not do."""
    from transformers import Gemma2Config

    tokenizer = tiny_tokenizer()
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_for_use(str(tmp_path), kind="causal", precision="fp32", device=CPU)
    with pytest.raises(BadInput, match="softcap"):
        check_reading(model, kind="causal")


def test_probe_notices_a_head_that_does_more(tmp_path: Path) -> None:
    """Cohere scales its logits after the head: reading states and weights alone would be wrong."""
    from transformers import CohereConfig

    tokenizer = tiny_tokenizer()
    config = CohereConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        logit_scale=0.25,
    )
    model = AutoModelForCausalLM.from_config(config)
    sharpen(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_for_use(str(tmp_path), kind="causal", precision="fp32", device=CPU)
    with pytest.raises(BadInput, match="gives other values for a group"):
        check_reading(loaded, kind="causal")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_probe_accepts(architecture: str, causal_folder: Callable[[str], Path]) -> None:
    check_reading(open_model(causal_folder(architecture)), kind="causal")


def test_layout_follows_the_config() -> None:
    from transformers import BertConfig, Lfm2Config, MambaConfig, T5Config

    assert layout_of(config_of("llama", tiny_tokenizer())) == "shared"
    assert layout_of(BertConfig()) == "separate"
    assert layout_of(Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"])) == "alone"
    assert layout_of(MambaConfig()) == "alone"
    with pytest.raises(BadInput, match="t5 are not supported"):
        layout_of(T5Config())


def test_models_with_recurrent_layers_read_one_candidate_at_a_time(tmp_path: Path) -> None:
    from transformers import Lfm2Config

    tokenizer = tiny_tokenizer()
    config = Lfm2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        layer_types=["conv", "full_attention"],
        conv_L_cache=3,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    sharpen(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = open_model(tmp_path, torch.float64)
    assert loaded.layout == "alone"
    reader = GroupTokenizer(loaded.tokenizer, context=100, end_ids=loaded.end_ids, share=False)
    group = reader.encode("Why is it so?", ["One", "Two is more"])
    assert group.prefix == []
    got = loaded.token_logprobs(make_batch([group], causal=True))
    expected = torch.cat(
        [
            loaded.inner(input_ids=torch.tensor([block]))
            .logits[0]
            .log_softmax(-1)[start - 1 : -1]
            .gather(1, torch.tensor(block[start:])[:, None])[:, 0]
            for block, start in zip(group.blocks, group.starts, strict=True)
        ]
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
