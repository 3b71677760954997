"""The live page behind the shipped configurations of nginx and Caddy: a password, TLS, and the right host."""

import base64
import functools
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from app.dashboards.live import LOOPBACK, serve_page
from app.dashboards.model import load_library
from tests.support.paths import CHECKOUT

HOST = "dashboards.shop.example"
PASSWORD = "a long: päss"
PROXIES = CHECKOUT / "deploy" / "proxy"
PATIENCE_S = 60.0
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def until_listening(port: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, f"nobody listens at {port}"
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="module")
def page_port() -> Iterator[int]:
    """The live page with an empty warehouse behind it."""
    port, stopped = free_port(), threading.Event()

    def ask(question):
        return question(lambda _: b'{"meta": [], "data": []}')

    serve = functools.partial(serve_page, host="127.0.0.1", port=port, stopped=stopped, proxy_hosts=frozenset({HOST}))
    thread = threading.Thread(target=serve, args=(ask, load_library()))
    thread.start()
    until_listening(port)
    yield port
    stopped.set()
    thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += [
        "-subj",
        f"/CN={HOST}",
        "-addext",
        f"subjectAltName=DNS:{HOST}",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, f"install {name}: apt-get install {name}"
    return found


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[int]:
    with (folder / "said").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=folder) as process:
        try:
            until_listening(port)
            yield port
        finally:
            process.terminate()


@contextmanager
def nginx(folder: Path, page_port: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    port = free_port()
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True)
    (folder / "carat.htpasswd").write_text(f"analyst:{hashed.stdout}")
    (folder / "carat.htpasswd").chmod(0o644)  # a worker of nginx is another user
    folder.chmod(0o755)
    text = (PROXIES / "nginx.conf").read_text()
    for shipped, here in {
        "443 ssl": f"127.0.0.1:{port} ssl", ":8322": f":{page_port}", "/etc/nginx/carat.htpasswd;": f"{folder}/carat.htpasswd;",
        f"/etc/ssl/certs/{HOST}.pem": str(certificate[0]), f"/etc/ssl/private/{HOST}.key": str(certificate[1]),
    }.items():  # fmt: skip
        assert shipped in text
        text = text.replace(shipped, here)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # the folders of a test are closed to others
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}} "
        f"http {{ access_log off; {temporary} {text} }}"
    )
    with running([program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")], port, folder):
        yield port


@contextmanager
def caddy(folder: Path, page_port: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    port = free_port()
    hashed = subprocess.run(
        [program("caddy"), "hash-password", "--plaintext", PASSWORD], check=True, capture_output=True, text=True
    )
    text = (PROXIES / "Caddyfile").read_text().replace(":8322", f":{page_port}")
    text, found = re.subn(r"\$2a\$\S+", hashed.stdout.strip().replace("\\", r"\\"), text)
    assert found == 1
    text = text.replace(f"\n{HOST} {{", f"\n{HOST}:{port} {{\n\ttls {certificate[0]} {certificate[1]}")
    (folder / "Caddyfile").write_text(
        f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}\n}}\n{text}"
    )
    with running([program("caddy"), "run", "--config", str(folder / "Caddyfile")], port, folder):
        yield port


class FromHere(HTTPSConnection):
    """A connection to this machine that asks for, and verifies, the public host."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.own = ssl.create_default_context(cafile=str(certificate))
        super().__init__(HOST, port, timeout=PATIENCE_S, context=self.own)

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.sock = self.own.wrap_socket(plain, server_hostname=HOST)


def get(port: int, certificate: Path, target: str = "/", *, password: str = "", host: str = HOST) -> tuple[int, bytes]:
    connection = FromHere(port, certificate)
    headers = {"host": host}
    if password:
        headers["authorization"] = "Basic " + base64.b64encode(f"analyst:{password}".encode()).decode()
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_the_page_is_answered_over_tls_to_whoever_knows_the_password(tmp_path, page_port, certificate, proxy):
    with proxy(tmp_path, page_port, certificate) as port:
        assert get(port, certificate[0])[0] == 401
        assert get(port, certificate[0], password="wrong")[0] == 401
        status, page = get(port, certificate[0], password=PASSWORD)
        assert (status, b"<html" in page) == (200, True)
        status, problem = get(port, certificate[0], "/api/cards?dashboard=none", password=PASSWORD)
        assert (status, b"is expected" in problem) == (404, True)  # an answer of Carat's, through the proxy


def test_the_page_refuses_a_proxy_whose_host_it_was_not_told(page_port):
    assert HOST not in LOOPBACK
    with socket.create_connection(("127.0.0.1", page_port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: other.shop.example\r\nConnection: close\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 421")


def test_a_websocket_is_not_opened(page_port):
    asked = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA=="
    with socket.create_connection(("127.0.0.1", page_port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + asked + b"\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 200")
