"""The last layer of a model, computed only where somebody reads it.

No later layer attends to what the last one gives, so beyond its attention the tokens that nobody reads (the
prompt's, for log-probabilities; all but one of an answer, for a reward) cost nothing here: ``layout.read``
names the others. In what follows the model's states hold zeros or half a layer at tokens that are not read.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

# By the names that transformers uses: a layer's attention, and what treats every token by itself after it.
ATTENTION = ("self_attn", "attention", "attn")
PARTS = (
    *("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense"),
    *("attention.dense", "attention.out_lin", "attn.c_proj"),
    *("mlp", "ffn", "feed_forward"),
)


def skip_unread(model: nn.Module, *, layers: int) -> None:
    """Let the last of the ``layers`` layers of ``model`` do no more than ``layout.read`` asks for.

    A layer whose parts have other names is left as it is.
    """
    found = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == layers]
    if not found:
        return
    last, reader = found[0][-1], _Reader()
    names = {name: module for name, module in last.named_modules() if not hasattr(module, "experts")}
    attention = next((names[name] for name in ATTENTION if name in names), None)
    if attention is None:
        return
    # At every call: with gradient checkpointing the backward pass runs what is inside the layer once more.
    attention.register_forward_pre_hook(reader.start, with_kwargs=True)
    if "attention.output" in names:  # BERT and its kin: all that follows is as short as what goes in here
        names["attention.output"].register_forward_pre_hook(reader.narrow)
        last.register_forward_hook(reader.widen)
        return
    for part in [names[name] for name in PARTS if name in names]:
        part.register_forward_pre_hook(reader.narrow)
        part.register_forward_hook(reader.widen)


class _Reader:
    """Which tokens of the present batch are read; None: all."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.tokens = 0

    def start(self, module: nn.Module, args: Sequence[Any], options: dict[str, Any]) -> None:
        layout = options.get("layout")
        hidden = args[0] if args else options["hidden_states"]
        self.rows, self.tokens = None if layout is None else layout.read, hidden.shape[1]

    def narrow(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = self.rows
        return args if rows is None else tuple(whole.index_select(1, rows) for whole in args)

    def widen(self, module: nn.Module, args: Sequence[Any], output: Tensor) -> Tensor:
        if self.rows is None:
            return output
        whole = output.new_zeros(output.shape[0], self.tokens, output.shape[2])
        return whole.index_copy(1, self.rows, output)
