"""Where the page is served: at an address of this machine alone, unless another is asked for."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stages.lib.common import cli
from tools.packages import PAGE, package

OURS = ("127.0.0.1", "localhost", "[::1]")  # what a browser on this machine calls it
_GOODBYE = 1  # seconds for open connections, once it is to end


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at this address; port 0 is any that is free. Raises UserError where it is not to be had."""
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.create_server(place[:2], family=family)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise cli.UserError(f"{cli.printable(host)} is no address of this machine: mend --host") from None
        why = os.strerror(error.errno)
        raise cli.UserError(f"port {port} cannot be had ({why}): take another by --port, 0 is any free one") from None
    with taken:
        yield taken


def address(taken: socket.socket) -> str:
    """What to open in a browser."""
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_reached_from_elsewhere(taken: socket.socket) -> bool:
    """Whether other machines may come in."""
    return not ipaddress.ip_address(taken.getsockname()[0]).is_loopback


def application(blocks: Any, taken: socket.socket, **looks: Any) -> Any:
    """The page as an ASGI application, with nothing around it that Gradio would offer besides."""
    gradio, fastapi = package("gradio", "the page", PAGE), package("fastapi", "the page", PAGE)
    app = fastapi.FastAPI(openapi_url=None)
    if not is_reached_from_elsewhere(taken):
        # Another site may have its own name lead to this machine, and its pages would then count as ours.
        app.add_middleware(
            package("starlette.middleware.trustedhost", "the page", PAGE).TrustedHostMiddleware, allowed_hosts=OURS
        )
    nothing_besides = {"footer_links": [], "run_history": False, "enable_monitoring": False, "pwa": False}
    # Each of them is what it is, whatever Gradio's variables in the environment say.
    fixed = {"ssr_mode": False, "mcp_server": False, "root_path": "", "show_error": False}
    return gradio.mount_gradio_app(app, blocks, "/", **nothing_besides, **fixed, **looks)


def serve(app: Any, taken: socket.socket) -> None:
    """Answer at the socket, until a signal. Raises KeyboardInterrupt after Ctrl-C."""
    uvicorn = package("uvicorn", "the page", PAGE)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=_GOODBYE, ws="none")).run(
        sockets=[taken]
    )
