"""Text from a model: a prompt continued token by token, the same text for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import GenerationConfig, GPT2LMHeadModel

from stages.lib.cli import UserError
from stages.lib.tokens import boundary_id

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what is decoded from a part of a character


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 takes the likeliest one; `top_k` 0 leaves all in play."""

    new_tokens: int
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt, and whether it ended the text by itself."""

    text: str
    ended: bool


class _Stream:
    """Hands a text on as it grows, whole characters only, however many tokens a character takes."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]) -> None:
        self._tokenizer, self._write = tokenizer, write
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._prompt_seen = False

    def put(self, ids: torch.Tensor) -> None:
        if not self._prompt_seen:  # generate() begins with the prompt
            self._prompt_seen = True
            return
        for token in ids.tolist():
            if piece := self._decoder.step(self._tokenizer, token):
                self._write(piece)

    def end(self) -> None:
        """Called once after the last token; what is left then is part of a character."""


def continue_text(
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: Sampling,
    seed: int,
    write: Callable[[str], None] | None = None,
) -> Continuation:
    """Continue `prompt` as the opening of a document, until the model ends it or `new_tokens` are written.

    `write` is given the prompt and then each piece of text as it comes. An empty prompt lets the model begin by
    itself. Raises UserError when the prompt leaves no room in the model's context.
    """
    boundary = boundary_id(tokenizer)
    ids = [boundary, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    room = model.config.n_positions - len(ids)
    if room < 1:
        raise UserError(f"the prompt has {len(ids) - 1} tokens, the model sees {model.config.n_positions - 2} at most")
    if write:
        write(prompt)
    streamer = _Stream(tokenizer, write) if write else None
    limited = replace(sampling, new_tokens=min(sampling.new_tokens, room))
    (written,) = _generate(model, [ids], limited, seed, streamer)
    return Continuation(_text(tokenizer, written), ended=written[-1] == boundary)


def openings(model: GPT2LMHeadModel, tokenizer: Tokenizer, count: int, new_tokens: int) -> list[str]:
    """`count` texts that the model begins by itself, as it stands in the middle of training; all at once.

    Leaves the model's mode and the random states as they were.
    """
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            written = _generate(model, [[boundary_id(tokenizer)]] * count, Sampling(new_tokens), seed=0)
    finally:
        model.train(training)
    return [_text(tokenizer, ids) for ids in written]


def _generate(
    model: GPT2LMHeadModel, prompts: list[list[int]], sampling: Sampling, seed: int, streamer: _Stream | None = None
) -> list[list[int]]:
    """What the model writes after each of `prompts`, which are equally long and begin with `<|endoftext|>`."""
    boundary = prompts[0][0]
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    chosen = GenerationConfig(
        max_new_tokens=sampling.new_tokens,
        do_sample=sampling.temperature > 0,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=boundary,
        pad_token_id=boundary,
        **(drawn if sampling.temperature > 0 else {}),
    )
    torch.manual_seed(seed)
    ids = torch.tensor(prompts, device=model.device)
    with torch.no_grad():
        written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=chosen, streamer=streamer)
    return written[:, ids.shape[1] :].tolist()


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Token ids as text, without a character of which the last token holds only a part."""
    return tokenizer.decode(ids, skip_special_tokens=True).rstrip(BROKEN)
