"""The end of a search: the best settings where they are better by more than chance, and what they gain on test."""

from __future__ import annotations

from typing import Any

from stages.lib.common import cli
from stages.lib.common.cli import UserError
from stages.lib.processes.interruption import Interruption
from tools.tune import verdict
from tools.tune.search import Job, Search
from tools.tune.space import Changes, shown
from tools.tune.workplace import StageFailed, Workplace

BEST = "tune-best"
# Without the columns that trials do not have, validation and the settings that were changed are seen.
_TABLE = (
    "dvc exp show --only-changed --drop 'Created|change|perplexity|copied|lost|tokens|base_b' "
    "--sort-by validation_bits_per_byte"
)


def conclude(search: Search, workplace: Workplace, interruption: Interruption) -> None:
    """Say what the search has found, and how it is taken over."""
    count = len({one.job.number for one in search.results if one.job.number})
    cli.say(f"tune: {count} trial{'s' * (count > 1)} besides the settings as they are, {len(search.results)} runs")
    cli.say(f"  all of them: {cli.command(_TABLE)}")
    whole = [one.job for _, one in search.best() if one.job.whole]
    if not whole:
        cli.say(
            "tune: no trial is better than the settings as they are: keep these; the same command with more minutes "
            "goes on"
        )
        return
    gains = [_gain(search, job) for job in whole]
    # Of a better one that was found last there may be one run only.
    found, gain = next(((job, gain) for job, gain in zip(whole, gains, strict=True) if gain.sure), (whole[0], gains[0]))
    cli.say(f"  the best: {found.called}: {shown(found.changes)}")
    error = f"standard error {gain.error:.4f}" if gain.error is not None else "with one seed, which shows no spread"
    cli.say(f"  in validation {-gain.gain:+.4f} bits per byte against the settings as they are, {error}")
    if not gain.sure:
        minutes = search.minutes_to_tell(found)
        more = f"--minutes {minutes}" if minutes else "more minutes"
        cli.say(f"tune: that may be chance: keep the settings as they are; the same command with {more} goes on")
        return
    _show_test(workplace, found.changes, interruption)
    cli.say(f"tune: to take it over: {cli.command(f'dvc exp apply {BEST}')}")


def _gain(search: Search, job: Job) -> verdict.Gain:
    before, after = ([one.bits for one in search.of(number)] for number in (0, job.number))
    return verdict.gain(before, after)


def _show_test(workplace: Workplace, changes: Changes, interruption: Interruption) -> None:
    """Evaluate the committed and the best settings on test documents."""
    cli.say("tune: test documents are looked at, for the settings as they are and for the best")
    before, documents_before = _evaluated(workplace, {}, None, interruption)
    after, documents_after = _evaluated(workplace, changes, BEST, interruption)
    compared = verdict.on_test(documents_before, documents_after)
    if compared is None:
        cli.say("  there are not two of them: what is gained on others is not known")
        return
    difference, low, high = compared
    cli.say(f"  bits per byte: {before['bits_per_byte']:.4f} as they are, {after['bits_per_byte']:.4f} with the best")
    cli.say(f"  difference {difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")


def _evaluated(
    workplace: Workplace, changes: Changes, name: str | None, interruption: Interruption
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    workplace.reset(changes)
    try:
        while (found := workplace.finish(name, lambda: bool(interruption.reason))) is None:
            interruption.check("before the evaluation was over")
    except StageFailed as failed:
        raise UserError(f"the evaluation failed: {failed}") from None
    return found
