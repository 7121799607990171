"""What the graph of each architecture must show after the passes: one line a family.

The passes know operators, not models. A family says what they can achieve in it, so that a rewrite that silently stopped to match is an
error and not a slower graph. Settings of a checkpoint may change that: those whose graph is known are counted with, and where another one
explains a rewrite that did not happen, the export says so and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.errors import GraphError, shown

_ACTIVATIONS = ("gelu", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")
# The values with which public checkpoints have each setting that decides what operators a layer is made of.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("hidden_act", "activation", "hidden_activation"), _ACTIVATIONS),
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "rotary_value", "sinusoidal_pos_embds"), (False,)),
    "conv_kernel_size": (0, 3),
    "inner_group_num": (1,),
    "relative_attention": (True,),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the graph of one checkpoint must show after the passes.

    Attributes:
        model_type: the family.
        layers: layers with an attention.
        one_row: nothing but row 0 of the last layer is needed, and nothing else of it is computed.
        reassociated_products: products of the last attention that are spared.
        fused_attention: one operator computes an attention over all tokens on a GPU.
        packed: it computes the tokens of all texts without padding, too.
        unusual: settings, in words, that may give another graph than any that was counted.
        notes: what a known setting costs.
    """

    model_type: str
    layers: int
    one_row: bool
    reassociated_products: int
    fused_attention: bool
    packed: bool
    unusual: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def whole_layers(self) -> int:
        """Layers that compute every token's row."""
        return self.layers - self.one_row

    def missed(self, found: str) -> str:
        """A note for the report that a rewrite did not happen as expected; `found` says what was counted.

        Raises:
            GraphError: no setting of the checkpoint explains it.
        """
        if not self.unusual:
            raise GraphError(f"{self.model_type}: {found}; this version of transformers traces a different graph; please report it")
        return f"slower than usual: {found}; the cause is {' and '.join(self.unusual)}; the vectors are still PyTorch's"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture's graph; `model_type` is its key in `checkpoint.architectures` too.

    `reassociated_products` is how many products of the last attention (keys, values) `passes.single_query_attention` spares: rotated or
    disentangled keys have to be computed. `fused_attention` says that one operator computes an attention over all tokens on a GPU:
    disentangled attention picks two more terms for every pair of tokens, for which there is none. `packed` says that the operator for texts
    without padding computes it on its fastest kernel, which takes nothing beside the scores: no bias of positions, no window.
    `layers_within` is the setting that repeats layers within each of `num_hidden_layers`, `rotated_values` the one with which values are
    rotated too.
    """

    model_type: str
    reassociated_products: int = 2
    fused_attention: bool = True
    packed: bool = True
    layers_within: str | None = None
    rotated_values: str | None = None

    def form(self, config: Any, *, one_row: bool = True, runs_code: bool = False) -> Form:
        """What a checkpoint of this `config` must show; `one_row` as in `Form`, `runs_code` says that code of its own makes the model."""
        rotated = one_row and self.rotated_values is not None and bool(getattr(config, self.rotated_values))
        note = f"slower than usual: with {self.rotated_values} the last layer's values are rotated, so they are computed for every token"
        unusual = [
            f"{name} {shown(getattr(config, name))}"
            for name, values in _USUAL.items()
            if hasattr(config, name) and getattr(config, name) not in values
        ]
        return Form(
            model_type=self.model_type,
            layers=int(config.num_hidden_layers) * (1 if self.layers_within is None else int(getattr(config, self.layers_within))),
            one_row=one_row,
            reassociated_products=self.reassociated_products - rotated if one_row else 0,
            fused_attention=self.fused_attention,
            packed=self.packed,
            unusual=(*unusual, *(["the checkpoint's own code"] if runs_code else [])),
            notes=(note,) if rotated else (),
        )


_TABLE = (
    Family(model_type="bert"),
    Family(model_type="roberta"),
    Family(model_type="xlm-roberta"),
    Family(model_type="camembert"),
    Family(model_type="distilbert"),
    Family(model_type="electra"),
    Family(model_type="mpnet", packed=False),
    Family(model_type="albert", layers_within="inner_group_num"),
    Family(model_type="ernie"),
    Family(model_type="deberta-v2", reassociated_products=0, fused_attention=False, packed=False),
    Family(model_type="roformer", reassociated_products=1, packed=False, rotated_values="rotary_value"),
    Family(model_type="modernbert", reassociated_products=1, packed=False),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _TABLE}


def form_of(checkpoint: Checkpoint) -> Form:
    """What the checkpoint's graph must show."""
    family, runs_code = FAMILIES[checkpoint.architecture.model_type], bool(checkpoint.stored_config.get("auto_map"))
    return family.form(checkpoint.config, one_row=checkpoint.model.one_row, runs_code=runs_code)
