"""What sentence-transformers' Pooling module says, in its older entries and its newer one, and which pooling an export then has."""

from __future__ import annotations

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.sentence_settings import switch, unknown_keys
from cls_exporter.config import ExportConfig
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.manifest import Pooling

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_KNOWN = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *_OLD_MODES}
_MADE_OF: dict[Pooling, str] = {"cls": "the CLS row", "mean": "the mean of the tokens' rows"}


def read_pooling(folder: CheckpointFolder) -> tuple[str, bool, tuple[str, ...]]:
    """The mode, several joined by a plus, whether the prompt is pooled too, and entries that are not known.

    Raises:
        CheckpointError: it names no pooling of sentence-transformers', or two in two ways.
    """
    config, where = folder.json_object("config.json"), f"config.json in {folder.name}"
    switches = [key for key in config if key.startswith("pooling_mode_")]
    on = [_OLD_MODES.get(key, key) for key in switches if switch(config, key, where, default=False)]
    modes = config.get("pooling_mode")
    named = [modes] if isinstance(modes, str) else (on or ["mean"]) if modes is None else modes
    if not isinstance(named, list) or not named or not all(isinstance(mode, str) and mode in _OLD_MODES.values() for mode in named):
        raise CheckpointError(
            f"{where} pools by {shown(on if modes is None else modes)}, which is not known; expected {', '.join(_OLD_MODES.values())} "
            "or a list of them"
        )
    if switches and sorted(named) != sorted(on or ["mean"]):
        raise CheckpointError(
            f"{where} has pooling_mode {shown(modes)}, but its older entries say {shown(on)}; nothing says which was trained; correct one"
        )
    return "+".join(named), switch(config, "include_prompt", where, default=True), unknown_keys(config, _KNOWN, where)


def chosen_pooling(trained: str | None, asked: ExportConfig) -> Pooling:
    """What the exported vectors are made of: what the source was trained with, CLS where it does not say, or what was asked for.

    Raises:
        CheckpointError: another one was asked for than was trained, without permission.
        UnsupportedError: it was trained with one that is not exported.
    """
    if trained is None:
        return "mean" if asked.pooling == "mean" else "cls"
    allowed = asked.allow_pooling_mismatch
    if asked.pooling != "auto":
        chosen = asked.pooling
    elif allowed:
        chosen = "cls"
    elif trained in _MADE_OF:
        chosen = trained
    else:
        raise UnsupportedError(
            f"sentence-transformers pools this model by {trained}; supported are {' and '.join(_MADE_OF)}; export another model, or add "
            f"--allow-pooling-mismatch to export {_MADE_OF['cls']} anyway (with --pooling mean: {_MADE_OF['mean']})"
        )
    if chosen != trained and not allowed:
        raise CheckpointError(
            f"--pooling {chosen}: sentence-transformers pools this model by {trained}; {_MADE_OF[chosen]} was not trained to mean "
            "anything; leave --pooling out, or add --allow-pooling-mismatch if it is what you want"
        )
    return chosen
