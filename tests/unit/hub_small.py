"""A stand-in for the Hugging Face hub: one dataset of local files at one commit, over HTTP."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(root: Path, name: str):
    """Serve the files below `root` as dataset `name`; gives the endpoint."""
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_GET(self):
            self.answer(with_body=True)

        def do_HEAD(self):
            self.answer(with_body=False)

        def answer(self, *, with_body):
            path = unquote(urlsplit(self.path).path)
            resolved = f"/datasets/{name}/resolve/"
            if path.startswith(f"/api/datasets/{name}"):
                self.send(200, json.dumps(self.facts(path)).encode(), with_body, {"Content-Type": "application/json"})
            elif path.startswith(resolved) and path.removeprefix(resolved).partition("/")[2] in files:
                body = files[path.removeprefix(resolved).partition("/")[2]]
                mark = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
                self.send(200, body, with_body, mark)
            else:
                self.send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})

        def facts(self, path):
            rows = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            if "/tree/" in path:
                below = path.partition("/tree/")[2].partition("/")[2]
                return [row for row in rows if row["path"].startswith(below)]
            if "/paths-info/" in path:
                return rows
            siblings = [{"rfilename": n} for n in files]
            return {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}

        def do_POST(self):
            self.answer(with_body=True)

        def send(self, code, body, with_body, headers):
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
