"""What went wrong between us and the Hub, each in one line that says what to do."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from httpx2 import (
    ConnectError,
    InvalidURL,
    LocalProtocolError,
    ProxyError,
    RequestError,
    TimeoutException,
    TooManyRedirects,
    UnsupportedProtocol,
)
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stages.lib.common.cli import command
from stages.lib.hub.patience import AskedToWait, Silent, reason

_FOLDER = "or use a folder (base.hub: null)"
_LOG_IN = f"run {command('hf auth login')}, or set HF_TOKEN"


class NotTheHub(Exception):
    """An answer that is not of the form the Hub's have. Its text says what it lacks."""


def explain(error: Exception, name: str, revision: str | None) -> str | None:
    """The line for an error met while fetching `name` at `revision`; None for an error of another kind."""
    if isinstance(error, HfHubHTTPError):
        return _explain_answer(error, name, revision)
    if line := _explain_setting(error, name):
        return line
    wanted = f"{name} at revision {revision}" if revision else name
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{wanted} is not whole in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to ask the "
            f"Hub: unset it for the first run, {_FOLDER}"
        )
    if isinstance(error, NotTheHub | TooManyRedirects):
        return (
            f"{host()} does not answer as the Hub does ({error}): {_mend_endpoint()}, log in where the network asks "
            f"for it, {_FOLDER}"
        )
    if isinstance(error, AskedToWait):
        return f"{host()} asks to wait {error.seconds / 60:.0f} minutes: run the same command again then{_limit()}"
    if isinstance(error, RequestError | Silent):
        return f"{wanted} is not fetched: {_explain_connection(error)}, {_FOLDER}"
    return None


def _explain_setting(error: Exception, name: str) -> str | None:
    if isinstance(error, HFValidationError):
        return f"{name} is no name a model of the Hub can have: mend base.hub in params.yaml"
    if isinstance(error, LocalProtocolError | UnicodeEncodeError):
        return f"the token holds a character that no token has: mend HF_TOKEN, or run {command('hf auth login')}"
    if isinstance(error, UnsupportedProtocol | InvalidURL):
        return f"HF_ENDPOINT is {host()!r}, no address of a server: it must be such as https://huggingface.co"
    return None


def _explain_answer(error: HfHubHTTPError, name: str, revision: str | None) -> str:
    status = error.response.status_code
    page = f"{constants.ENDPOINT}/{name}" if "@" not in constants.ENDPOINT else "its page"
    if isinstance(error, GatedRepoError):
        if status == 401 or not get_token():
            return f"{name} asks for consent: give it on {page}, then {_LOG_IN}"
        return f"{name} asks for consent, and the account of your token has not got it: ask for it on {page}"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision} on the Hub: mend base.revision in params.yaml"
    if isinstance(error, DisabledRepoError):
        return f"the Hub has disabled {name}: take another model in base.hub"
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and not get_token()):
        if get_token():
            return f"the Hub has no model {name}, or your token may not see it: mend base.hub in params.yaml"
        return f"the Hub has no model {name}, or it is private: mend base.hub in params.yaml, or {_LOG_IN}"
    if status == 401:
        return (
            "the Hub does not accept your token: set HF_TOKEN to a valid one or unset it, or run "
            f"{command('hf auth login')}; public models need none"
        )
    if status == 403:
        return f"the Hub refuses {name} (403): the token lacks the permission to read it. Take another, {_FOLDER}"
    if status == 429:
        return f"the Hub answered 429, too many requests, again and again: wait some minutes{_limit()}"
    if status >= 500:
        return f"the Hub answered {status} when asked for {name}, again and again: try again later, {_FOLDER}"
    return f"{host()} answered {status} when asked for {name}, which the Hub would not: {_mend_endpoint()}, {_FOLDER}"


def _explain_connection(error: RequestError | Silent) -> str:
    whom = host() if isinstance(error, Silent) else error.request.url.netloc.decode()
    causes = tuple(type(cause) for cause in _causes(error))
    if isinstance(error, ProxyError):
        return f"the proxy does not let us through to {whom}. {_look_to()}"
    if ssl.SSLCertVerificationError in causes:
        return f"the certificate of {whom} is not to be trusted. If your network has one of its own, set SSL_CERT_FILE"
    if socket.gaierror in causes:
        return f"the name {whom} was not found (DNS). {_look_to()}"
    if ConnectionRefusedError in causes:
        return f"{whom} refuses the connection. {_look_to()}"
    if isinstance(error, Silent | TimeoutException):
        return f"{whom} could not be reached: {reason(error)}, again and again. Try again later"
    if isinstance(error, ConnectError):
        return f"there is no connection to {whom}. {_look_to()}"
    return f"the connection to {whom} broke again and again. Run the same command again: it goes on where it stopped"


def _look_to() -> str:
    """The settings that may be the cause, where there are any."""
    given = [name for name in ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") if _setting(name)]
    return f"Look to your network{''.join(f', and to {name}' for name in given)}"


def _setting(name: str) -> str | None:
    return os.environ.get(name) or os.environ.get(name.lower())


def host() -> str:
    """Where the Hub is asked: its name and port, without a password that the address may hold."""
    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2] or constants.ENDPOINT


def _mend_endpoint() -> str:
    return "unset or mend HF_ENDPOINT" if _setting("HF_ENDPOINT") else "try again later"


def _limit() -> str:
    return "" if get_token() else f". Who is logged in may ask more often: {_LOG_IN}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
