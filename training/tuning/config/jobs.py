"""Text jobs: writing answers and scoring them."""

from typing import Literal

from pydantic import Field

from training.tuning.config.shared import PRIMARY, Config


class GenerateConfig(Config):
    """Answers to prompts. Takes no judgements, so ties and both-bad do not arise."""

    samples_per_prompt: int = Field(
        1, ge=1, title="Answers per prompt", description="Independent samples.", json_schema_extra=PRIMARY
    )
    temperature: float = Field(
        1.0, ge=0, title="Temperature", description="0 is greedy decoding.", json_schema_extra=PRIMARY
    )
    top_p: float = Field(
        1.0, gt=0, le=1, title="Top-p", description="Sample from the smallest set of tokens with this mass."
    )
    max_new_tokens: int = Field(
        256, ge=1, title="Longest answer", description="In tokens.", json_schema_extra=PRIMARY
    )
    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Answers written at once. Samples do not depend on it."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )


class ScoreConfig(Config):
    """Scores of candidates by a reward model. Judgements are ignored, so ties and both-bad do not arise."""

    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Groups scored at once.", json_schema_extra=PRIMARY
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )
    max_length: int | None = Field(
        1024, ge=8, title="Longest sequence", description="Tokens; longer answers are cut at the end."
    )
