"""Asking a server that may be slow, busy, out of order or not there: how long, how often, and what is said meanwhile.

A request that fails for a reason that may pass is repeated, after the time the server asks for (`Retry-After`, or the
draft standard's `RateLimit`) or a little longer each time, and a line says so. Each is made in a thread of its own, so
that Ctrl-C and the limit of silence hold wherever it hangs: looking up a name, and connecting to one after another of a
name's addresses, mind neither by themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from httpx2 import ConnectError, NetworkError, RemoteProtocolError, Response, TimeoutException
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

from stages.lib.common import cli

T = TypeVar("T")

TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds for one answer, or one piece of a file; the user's, if set
_SILENCE = TIMEOUT + 2  # seconds after which an attempt is given up that no time-out of the client's ended
_TRIES = 5  # of a request that fails, or breaks, again and again
_TRIES_UNHEARD = 2  # where nothing has come at all: each may take all of _SILENCE
_LONGEST_WAIT = 300  # seconds; who asks for more is not waited for
_PASSING = (408, 429, 500, 502, 503, 504)


class Silent(Exception):
    """A server said nothing for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer for {seconds:.0f} s")
        self.seconds = seconds


class AskedToWait(Exception):
    """A server asks to be left alone for longer than anyone would want to watch: for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"asks to wait {seconds:.0f} s")
        self.seconds = seconds


class Attempt:
    """One request under way. Who makes it calls `alive` for every answer and piece that comes."""

    def __init__(self) -> None:
        self._heard = time.monotonic()
        self._given_up = False

    def alive(self) -> None:
        """Say that something came. Raises Silent when nobody waits for it any more."""
        if self._given_up:
            raise Silent(_SILENCE)
        self._heard = time.monotonic()

    def watch(self, work: Callable[[Attempt], T]) -> T:
        """What `work` returns or raises; Silent when it calls `alive` no more."""
        future: Future[T] = Future()
        threading.Thread(target=_settle, args=(future, work, self), daemon=True).start()
        try:
            while not wait([future], timeout=0.2).done:
                if time.monotonic() - self._heard > _SILENCE:
                    raise Silent(_SILENCE)
        finally:
            self._given_up = True
        return future.result()


def _settle(future: Future[T], work: Callable[[Attempt], T], attempt: Attempt) -> None:
    try:
        future.set_result(work(attempt))
    except BaseException as error:
        future.set_exception(error)


def patiently(work: Callable[[Attempt], T], what: str, reached: Callable[[], int] = lambda: 0) -> T:
    """The result of `work`, repeated while it fails for reasons that may pass.

    `what` names it in the lines said while waiting. `reached` tells how far it has come, such as the bytes of a file:
    each step forward makes the patience new. Raises the last error when that is spent, or AskedToWait.
    """
    failures, last = 0, reached()
    while True:
        try:
            return Attempt().watch(work)
        except (TimeoutException, NetworkError, RemoteProtocolError, HfHubHTTPError, Silent) as error:
            now = reached()
            failures = 1 if now > last else failures + 1
            last = now
            unheard = now == 0 and isinstance(error, Silent | TimeoutException | ConnectError)
            if failures >= (_TRIES_UNHEARD if unheard else _TRIES) or not _may_pass(error):
                raise
            seconds = _wish(error) or 2 ** (failures - 1)
            cli.say(f"{what}: {reason(error)}; trying again in {seconds:.0f} s")
        time.sleep(seconds)


def reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, HfHubHTTPError):
        return f"the answer is {error.response.status_code}"
    if isinstance(error, TimeoutException | Silent):
        return f"no answer for {TIMEOUT} s"
    if isinstance(error, ConnectError):
        return "no connection"
    return "the connection broke"


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _PASSING


def _wish(error: Exception) -> float | None:
    """The seconds after which the server wants to be asked again, if it says so. Raises AskedToWait for too many."""
    seconds = _seconds_to_wait(error.response) if isinstance(error, HfHubHTTPError) else None
    if seconds is not None and seconds > _LONGEST_WAIT:
        raise AskedToWait(seconds) from None
    return seconds


def _seconds_to_wait(response: Response) -> float | None:
    limit = parse_ratelimit_headers(response.headers)
    if limit and limit.remaining == 0:
        return float(limit.reset_in_seconds + 1)  # whole seconds, rounded down
    given = response.headers.get("Retry-After", "").strip()
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None  # no header, or a date without a zone
