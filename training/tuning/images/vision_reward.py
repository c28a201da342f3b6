"""Image reward models on a vision-language model: LLaVA-Reward (arXiv:2507.21391).

The model reads a picture and its prompt; a head looks back from the last token to the picture's tokens as
they were before the first layer (skip-connection cross-attention):

    h' = RMSNorm(h + softmax(W_q h · (W_k e)ᵀ / √d) W_v e),    score = w · h'

with h the last hidden state of the last token and e the visual embeddings. One head and no output projection,
as in the authors' code (sjz5202/LLaVA-Reward); its visual tokens are those of the language model's input.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.resampling import cover
from training.tuning.text.loading import load_config, load_model, load_processor
from training.tuning.text.models import reads_pictures

QUESTION = "How good is this picture of: {prompt}"
PROJECTOR = "multi_modal_projector"


class VisionLanguageBackbone(nn.Module):
    """A LLaVA-like model of transformers with its processor. The vision part stays frozen."""

    kind = "vision_language"

    def __init__(self, model: Any, processor: Any, *, question: str = QUESTION) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.settings = {"question": question}
        config = model.config
        self.width = int(config.get_text_config().hidden_size)
        self.image_size = int(config.vision_config.image_size)
        self.image_token = int(config.image_token_id)
        prepares = processor.image_processor
        self.mean = torch.tensor(prepares.image_mean).view(3, 1, 1)
        self.std = torch.tensor(prepares.image_std).view(3, 1, 1)

    @property
    def inner(self) -> Any:
        """The transformers model, below an adapter."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def prepare_pixels(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 h w"]:
        """Pictures in -1..1, with a gradient: scaled until the model's square is covered, cropped in the
        middle, normalised.
        """
        seen = cover(pixels.float(), self.image_size, self.image_size)
        return ((seen + 1) / 2 - self.mean.to(seen)) / self.std.to(seen)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the layers' activations in the backward pass; nothing drops out."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.0
        self.model.train()
        self.inner.gradient_checkpointing_enable({"use_reentrant": False})

    def count_tokens(self, prompt: str) -> int:
        """Tokens that the model reads for a picture with this prompt."""
        return len(self._tokens(prompt))

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens it can read."""
        return int(self.inner.config.get_text_config().max_position_embeddings)

    def read(
        self, pixels: Float[Tensor, "N 3 h w"], owner: Int[Tensor, " N"], prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N V H"]]:
        """The last hidden state of the last token, and the visual embeddings before the first layer."""
        rows = [self._tokens(prompts[number]) for number in owner.tolist()]
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long, device=pixels.device)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):  # padded on the right, where nothing sees it
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
        found = self.inner.base_model(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels.to(self.inner.dtype),
            output_hidden_states=True,
            use_cache=False,
        )
        last = found.last_hidden_state[torch.arange(len(rows)), mask.sum(dim=1) - 1]
        visual = found.hidden_states[0][(ids == self.image_token) & mask.bool()]
        return last, visual.view(len(rows), -1, self.width)

    def image_features(self, pixels: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N H"]:
        """What it sees in pictures, whatever the prompt: the mean of their visual tokens."""
        found = self.inner.base_model.get_image_features(pixels.to(self.inner.dtype)).pooler_output
        return torch.stack(list(found)).mean(dim=1)

    def _tokens(self, prompt: str) -> list[int]:
        content = [
            {"type": "image"},
            {"type": "text", "text": self.settings["question"].format(prompt=prompt)},
        ]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        blank = Image.new("RGB", (self.image_size, self.image_size))
        tokens: list[int] = self.processor(text=[text], images=[blank])["input_ids"][0]
        return list(tokens)


class SkipHead(nn.Module):
    """Skip-connection cross-attention from the last token to the picture, and K outputs. Always float32."""

    def __init__(self, width: int, *, outputs: int = 1) -> None:
        super().__init__()
        self.settings = {"outputs": outputs}
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.score = nn.Linear(width, outputs, bias=False)
        for layer in (self.query, self.key, self.value, self.score):
            nn.init.normal_(layer.weight, std=1 / (width + 1))

    def forward(self, last: Float[Tensor, "N H"], visual: Float[Tensor, "N V H"]) -> Float[Tensor, "N K"]:
        last, visual = last.float(), visual.float()
        with torch.autocast(last.device.type, enabled=False):
            asked = torch.einsum("nh,nvh->nv", self.query(last), self.key(visual))
            weights = (asked / math.sqrt(last.shape[1])).softmax(dim=1)
            seen = torch.einsum("nv,nvh->nh", weights, self.value(visual))
            return self.score(self.norm(last + seen))


def is_vision_language(base: str) -> bool:
    """Whether ``base`` is a model that reads pictures and writes, not a pair of encoders."""
    folder = Path(base)
    if folder.exists() and not (folder / "config.json").is_file():
        return False
    try:
        config = load_config(base)
    except BadInput:
        return False  # whoever opens it says what is wrong
    return reads_pictures(config) and hasattr(config, "image_token_id")


def load_vision_language(base: str, *, question: str = QUESTION) -> VisionLanguageBackbone:
    """LLaVA-like model and processor, float32, its vision part frozen. Raises BadInput for other kinds."""
    model, processor = load_model(base, kind="causal", dtype=torch.float32), load_processor(base)
    if PROJECTOR not in {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}:
        raise BadInput(
            f"models of type {model.config.model_type} are not supported as reward models of pictures; take "
            "one of LLaVA's kind",
            file=base,
        )
    for name, weight in model.named_parameters():
        weight.requires_grad_("vision_" not in name)
    return VisionLanguageBackbone(model.eval(), processor, question=question)
