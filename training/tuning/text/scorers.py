"""Reward models as transformers' classes: a backbone with a linear head, ``score``.

Language models and encoders have such a class of their own. Most models that read pictures have none; theirs
is made of transformers' parts, as those of its decoders are.
"""

from typing import Any

from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)


def scorer_class(config: Any) -> Any:
    """What loads a reward model with this config by ``from_pretrained``."""
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return AutoModelForSequenceClassification
    family = family_of(config)
    name = f"{family.__name__.removesuffix('PreTrainedModel')}ForSequenceClassification"
    return type(name, (GenericForSequenceClassification, family), {"__module__": __name__})


def family_of(config: Any) -> type[PreTrainedModel]:
    """What all of transformers' models of this architecture come from, such as LlavaPreTrainedModel."""
    writer = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    return next(one for one in writer.__mro__[1:] if issubclass(one, PreTrainedModel))


def how_to_make(config: Any) -> list[str]:
    """Lines of Python after which ``Scorer`` is the class of a reward model with this config."""
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return ["from transformers import AutoModelForSequenceClassification as Scorer"]
    family = family_of(config)
    return [
        "from transformers.modeling_layers import GenericForSequenceClassification",
        f"from {family.__module__} import {family.__name__}",
        "",
        f"class Scorer(GenericForSequenceClassification, {family.__name__}):",
        '    """A linear head on the states of the model that reads pictures."""',
    ]
