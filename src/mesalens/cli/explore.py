"""`mesalens explore`."""

import threading
import webbrowser
from types import FrameType

from mesalens.checks import count
from mesalens.cli.interruption import handled
from mesalens.cli.options import Command, Folder
from mesalens.explorer import serve, write


class Explore(Command):
    """Opens the explorer: optima, gradient flow, spectral filters and verdicts in the browser.

    The page is served on this machine alone, until Ctrl-C.
    """

    port: int = 0
    """the port on 127.0.0.1 (a free one by default)"""
    browser: bool = True
    """open the browser; without it only the address is printed"""
    out: Folder | None = None
    """write the page into a new folder instead"""

    def __call__(self) -> int:
        """Serves the page, or writes it."""
        if self.out is not None:
            write(self.out)
            print(f"The page: {self.out / 'index.html'}. Open it in a browser.")
            return 0
        count("port", self.port, at_least=0, at_most=65535)
        with serve(self.port) as server:

            def stop(number: int, frame: FrameType | None) -> None:
                # `shutdown` waits for the loop, which this thread runs
                threading.Thread(target=server.shutdown).start()

            with handled(stop):
                address = f"http://127.0.0.1:{server.server_port}/"
                print(f"The explorer: {address} (Ctrl-C ends it)", flush=True)
                if self.browser:
                    # A browser in the terminal would not let the loop begin
                    threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
                server.serve_forever(poll_interval=0.1)
        return 0
