"""Text from a model: a prompt continued token by token, the same text for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tokenizers.decoders import DecodeStream
from transformers import GenerationConfig, GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList

from stages.lib.cli import UserError
from stages.lib.tokens import Tokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what is decoded from a part of a character


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, and when to stop.

    `temperature` 0 takes the likeliest token; `top_k` 0 leaves all in play.
    """

    new_tokens: int
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()  # the text ends before the first of these


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt, as text and as tokens.

    `ended`: it closed the text by itself, or came to a string it was to stop at; otherwise it was cut off.
    """

    text: str
    ids: list[int]  # without the one that closes a text, but with what was written of a string to stop at
    ended: bool


class _Follower(StoppingCriteria):
    """Follows one text as it grows: hands it on, whole characters only, and ends it before a string to stop at.

    What may be the beginning of such a string is held back until it is known not to be.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...], write: Callable[[str], None]) -> None:
        self._tokenizer, self._stop, self._write = tokenizer, stop, write
        self._decoder = DecodeStream(skip_special_tokens=False)
        self._waiting = ""

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        """Take the newest token of the shape [1, length]; True once the text is to end."""
        newest = int(input_ids[0, -1])
        if newest != self._tokenizer.closing:
            self._waiting += self._decoder.step(self._tokenizer.library, newest) or ""
        kept = _cut(self._waiting, self._stop)
        done = len(kept) < len(self._waiting)
        self._waiting = kept
        self._hand_on(0 if done else _held(kept, self._stop))
        return torch.tensor([done], device=input_ids.device)

    def close(self) -> None:
        """Hand on what was held back: the text ended without it becoming a string to stop at."""
        self._hand_on(0)

    def _hand_on(self, held: int) -> None:
        ready = len(self._waiting) - held
        if ready:
            self._write(self._waiting[:ready])
        self._waiting = self._waiting[ready:]


def _cut(text: str, stop: tuple[str, ...]) -> str:
    """`text` up to the first of the strings to stop at; all of it where there is none."""
    return text[: min((at for one in stop if (at := text.find(one)) >= 0), default=len(text))]


def _held(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a string to stop at."""
    return max((size for one in stop for size in range(1, len(one)) if text.endswith(one[:size])), default=0)


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
    ids = prompt_ids(model, tokenizer, prompt)
    room = model.config.n_positions - len(ids)
    if write:
        write(prompt)
    follower = _Follower(tokenizer, sampling.stop, write or (lambda _: None)) if write or sampling.stop else None
    limited = replace(sampling, new_tokens=min(sampling.new_tokens, room))
    (written,) = _generate(model, tokenizer.closing, [ids], limited, seed, follower)
    if follower:
        follower.close()
    return _continuation(tokenizer, written, sampling.stop)


def prompt_ids(model: GPT2LMHeadModel, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What opens a text and the tokens of `prompt`. Raises UserError when they leave no room in the model's context."""
    ids = [tokenizer.opening, *tokenizer.encode(prompt)]
    context = model.config.n_positions
    if len(ids) >= context:
        raise UserError(f"the prompt has {len(ids) - 1} tokens, the model sees {context - 2} at most")
    return ids


def likeliest(model: GPT2LMHeadModel, closing: int, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """The tokens that a model holds for the likeliest after each of `prompts`, one after the other (greedy decoding).

    The prompts are equally long; they are continued all at once, until a text ends with `closing` or has `new_tokens`.
    Returns no `closing`.
    """
    if not prompts:
        return []
    limited = Sampling(min(new_tokens, model.config.n_positions - len(prompts[0])), temperature=0)
    return [_own(ids, closing) for ids in _generate(model, closing, prompts, limited, seed=0)]


def openings(model: GPT2LMHeadModel, tokenizer: Tokenizer, count: int, new_tokens: int) -> list[str]:
    """`count` texts that the model begins by itself, as it stands in the middle of training; all at once.

    Leaves the model's mode and the random states as they were.
    """
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            written = _generate(model, tokenizer.closing, [[tokenizer.opening]] * count, Sampling(new_tokens), seed=0)
    finally:
        model.train(training)
    return [_continuation(tokenizer, ids).text for ids in written]


def _generate(
    model: GPT2LMHeadModel,
    closing: int,
    prompts: list[list[int]],
    sampling: Sampling,
    seed: int,
    follower: _Follower | None = None,
) -> list[list[int]]:
    """What the model writes after each of `prompts`, which are equally long; a text ends with the token `closing`."""
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    chosen = GenerationConfig(
        max_new_tokens=sampling.new_tokens,
        do_sample=sampling.temperature > 0,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=closing,
        pad_token_id=closing,
        **(drawn if sampling.temperature > 0 else {}),
    )
    torch.manual_seed(seed)
    ids = torch.tensor(prompts, device=model.device)
    with torch.no_grad():
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=chosen,
            stopping_criteria=StoppingCriteriaList([follower] if follower else []),
        )
    return written[:, ids.shape[1] :].tolist()


def _own(ids: list[int], closing: int) -> list[int]:
    """The tokens before `closing`; after it comes padding, where others of the batch go on."""
    return ids[: ids.index(closing)] if closing in ids else ids


def _continuation(tokenizer: Tokenizer, written: list[int], stop: tuple[str, ...] = ()) -> Continuation:
    ids = _own(written, tokenizer.closing)
    # At the end there may be a character of which the last token holds only a part.
    text = tokenizer.decode(ids).rstrip(BROKEN)
    cut = _cut(text, stop)
    return Continuation(cut, ids, ended=len(ids) < len(written) or len(cut) < len(text))
