"""`serve`: the explorer on this machine."""

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mesalens.checks import InputError
from mesalens.explorer.pages import write

LOOPBACK = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Serves files, and does not list each request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A context with a server of the explorer, which other machines cannot reach.

    The server answers once its `serve_forever` is called; its `server_port` has its port.

    Args:
        port: The port; a free one by default.

    Raises:
        InputError: If the port cannot be used, or the page cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="mesalens-explorer-") as folder:
        pages = Path(folder) / "explorer"
        write(pages)
        handler = functools.partial(_Handler, directory=str(pages))
        try:
            server = ThreadingHTTPServer((LOOPBACK, port), handler)
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}).") from None
        with server:
            yield server
