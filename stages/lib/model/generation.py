"""Text from a model: a prompt continued token by token, the same text for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tokenizers.decoders import DecodeStream
from transformers import (
    GenerationConfig,
    GPT2LMHeadModel,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from stages.lib.common.cli import UserError
from stages.lib.model import devices
from stages.lib.rows.tokens import Tokenizer, beginning_with, prompt_ids

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what is decoded from a part of a character
_GREATEST_LOGIT = 1e30  # divided by a temperature, still a number of float32


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

    `ended`: it closed the text by itself, or came to a string it was to stop at; otherwise it was cut off. `repeated`:
    characters at the end of the prompt that the first token holds; they are not in `text`.
    """

    text: str
    ids: list[int]  # without the one that closes a text, but with what was written of a string to stop at
    ended: bool
    repeated: int = 0


class _Follower(StoppingCriteria):
    """Follows one text as it grows: hands it on, whole characters only, and ends it before a string to stop at.

    What may be the beginning of such a string is held back until it is known not to be. The first characters, as many
    as are `repeated` from the prompt, are passed over.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...], write: Callable[[str], None], repeated: int
    ) -> None:
        self._tokenizer, self._stop, self._write, self._repeated = tokenizer, stop, write, repeated
        self._decoder = DecodeStream(skip_special_tokens=False)
        self._waiting = ""

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        """Take the newest token of the shape [1, length]; True once the text is to end."""
        newest = int(input_ids[0, -1])
        ends = newest == self._tokenizer.closing
        piece = "" if ends else self._decoder.step(self._tokenizer.library, newest) or ""
        self._waiting += piece[self._repeated :]
        self._repeated -= min(self._repeated, len(piece))
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


class _Watch(LogitsProcessor):
    """Looks at every prediction before a token is drawn by it: `check` may raise, and one that is no number does."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Hand on the logits, of the shape [texts, vocabulary]."""
        self._check()
        if not (scores.abs() <= _GREATEST_LOGIT).all():
            raise UserError("the model predicts what is no number: its weights are damaged, or training ran away")
        return scores


class _FirstToken(LogitsProcessor):
    """Has the first token after prompts of `length` tokens be one of `allowed`."""

    def __init__(self, length: int, allowed: list[int]) -> None:
        self._length, self._allowed = length, allowed

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits, of the shape [texts, vocabulary], at the first token without those of all others."""
        if input_ids.shape[1] > self._length:
            return scores
        limited = torch.full_like(scores, -torch.inf)
        limited[:, self._allowed] = scores[:, self._allowed]
        return limited


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
    check: Callable[[], None] = lambda: None,
) -> Continuation:
    """Continue `prompt` as the opening of a document, until the model ends it or `new_tokens` are written.

    `write` is given the prompt and then each piece of text as it comes; `check` is called before each token. An empty
    prompt lets the model begin by itself. White space at the end of the prompt is part of the first token. Raises
    UserError when the prompt leaves no room in the model's context.
    """
    ids, last = prompt_ids(tokenizer, prompt, model.config.n_positions)
    if write:
        write(prompt)
    follower = None
    if write or sampling.stop:
        follower = _Follower(tokenizer, sampling.stop, write or (lambda _: None), len(last))
    processors = [_FirstToken(len(ids), beginning_with(tokenizer, last))] if last else []
    (written,) = _generate(model, tokenizer.closing, [ids], sampling, seed, processors, follower, check)
    if follower:
        follower.close()
    return _continuation(tokenizer, written, sampling.stop, len(last))


def likeliest(
    model: GPT2LMHeadModel,
    closing: int,
    prompts: list[list[int]],
    new_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """The tokens that a model holds for the likeliest after each of `prompts`, one after the other (greedy decoding).

    The prompts are equally long; they are continued all at once, until a text ends with the token `closing`, has
    `new_tokens`, or fills the model's context. `check` is called before each token. Returns no `closing`.
    """
    if not prompts:
        return []
    written = _generate(model, closing, prompts, Sampling(new_tokens, temperature=0), seed=0, check=check)
    return [_own(ids, closing) for ids in written]


def by_itself(
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    count: int,
    sampling: Sampling,
    check: Callable[[], None],
    seed: int = 0,
) -> list[Continuation]:
    """`count` texts that the model begins by itself, as it stands in the middle of training; all at once.

    `check` is called before each token, and may raise. Leaves the model's mode and the random states as they were.
    """
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), devices.any_kernel():
            prompts = [[tokenizer.opening]] * count
            written = _generate(model, tokenizer.closing, prompts, sampling, seed, check=check) if count else []
    finally:
        model.train(training)
    return [_continuation(tokenizer, ids) for ids in written]


def _generate(
    model: GPT2LMHeadModel,
    closing: int,
    prompts: list[list[int]],
    sampling: Sampling,
    seed: int,
    processors: Sequence[LogitsProcessor] = (),
    follower: _Follower | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """What the model writes after each of `prompts`, which are equally long; a text ends with the token `closing`."""
    room = model.config.n_positions - len(prompts[0])
    drawn = {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p), "top_k": sampling.top_k}
    chosen = GenerationConfig(
        max_new_tokens=min(sampling.new_tokens, room),
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
            logits_processor=LogitsProcessorList([_Watch(check), *processors]),
            stopping_criteria=StoppingCriteriaList([follower] if follower else []),
        )
    return written[:, ids.shape[1] :].tolist()


def _own(ids: list[int], closing: int) -> list[int]:
    """The tokens before `closing`; after it comes padding, where others of the batch go on."""
    return ids[: ids.index(closing)] if closing in ids else ids


def _continuation(
    tokenizer: Tokenizer, written: list[int], stop: tuple[str, ...] = (), repeated: int = 0
) -> Continuation:
    ids = _own(written, tokenizer.closing)
    # At the end there may be a character of which the last token holds only a part.
    text = tokenizer.decode(ids).rstrip(BROKEN)[repeated:]
    cut = _cut(text, stop)
    return Continuation(cut, ids, len(ids) < len(written) or len(cut) < len(text), repeated)
