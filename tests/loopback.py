"""A real HTTP server on 127.0.0.1 that misbehaves on demand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 1 << 20  # bytes
HANG = "hang"  # accept the request, answer nothing
TRUNCATE = "truncate"  # promise the whole body, send half of it


class LoopbackServer(ThreadingHTTPServer):
    """Serves `pages` (path -> body, HTTP status or (TRUNCATE, body)); the path's last part alone is enough as a key."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, object] = {}
        self.requested: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.connection.settimeout(30)  # not the default that the code under test sets for its own sockets
        self.server.requested.append(self.path)
        page = self.server.pages.get(self.path, self.server.pages.get(self.path.rsplit("/", 1)[-1], 404))
        if page is HANG:
            self.server.closing.wait(30)
        elif isinstance(page, int):
            self.send_error(page)
        elif isinstance(page, tuple):
            self._send(page[1], page[1][: len(page[1]) // 2])
        else:
            self._send(page, page)

    def _send(self, promised: bytes, sent: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(promised)))
        self.end_headers()
        for start in range(0, len(sent), PIECE):  # the time limit is for all that is written at once
            self.wfile.write(sent[start : start + PIECE])

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serve() -> Iterator[LoopbackServer]:
    server = LoopbackServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
