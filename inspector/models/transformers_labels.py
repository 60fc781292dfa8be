"""The labels that a transformers model is trained with, by the tasks in which its library lists its class."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inspector.models.inputs import InputSpec
from inspector.models.transformers_rules import Asked, Way, listed, number


def labels(asked: Asked, way: Way) -> Way:
    """What the forward takes as labels, {} where its class has none or of a kind without a default (the boxes
    of a detector): then the backward starts from all outputs."""
    for tasks, rule in _RULES:
        if any(type(asked.model).__name__ in listed(task) for task in tasks):
            return asked.fits(rule(asked, way))
    return {}


def _tokens(asked: Asked, way: Way) -> Way:
    """One token for each token (of the decoder, where there is one); beside sounds, of the text alone."""
    ids = way.get("decoder_input_ids") or way.get("input_ids")
    if not isinstance(ids, InputSpec):
        return {}
    books = number(asked.config, "num_codebooks", default=0)
    if books and len(ids.shape) == 3 and ids.shape[-1] == books + 1:  # the first column is the text
        words = number(asked.text, "vocab_size", default=0) or ids.below
        return {"labels": InputSpec(ids.shape[:-1], torch.int64, below=words)}
    return {"labels": InputSpec(ids.shape, torch.int64, below=ids.below)}


def _kinds(asked: Asked) -> int:
    return max(1, number(asked.config, "num_labels", default=2))


def _one(asked: Asked, way: Way) -> Way:
    return {"labels": InputSpec((1,), torch.int64, below=_kinds(asked))}


def _each(asked: Asked, way: Way) -> Way:
    ids = way.get("input_ids")
    return {"labels": InputSpec(ids.shape, torch.int64, below=_kinds(asked))} if ids else {}


def _span(asked: Asked, way: Way) -> Way:
    ids = way.get("input_ids")
    place = InputSpec((1,), torch.int64, below=ids.shape[-1] if ids else 2)
    return {"start_positions": place, "end_positions": place}


def _choice(asked: Asked, way: Way) -> Way:
    ids = way.get("input_ids")
    return {"labels": InputSpec((1,), torch.int64, below=ids.shape[1])} if ids else {}


_RULES: tuple[tuple[tuple[str, ...], Callable[[Asked, Way], Way]], ...] = (
    (("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM",
      "SPEECH_SEQ_2_SEQ"), _tokens),
    (("SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION", "VIDEO_CLASSIFICATION",
      "NEXT_SENTENCE_PREDICTION"), _one),
    (("TOKEN_CLASSIFICATION",), _each),
    (("MULTIPLE_CHOICE",), _choice),
    (("QUESTION_ANSWERING",), _span),
)  # fmt: skip
