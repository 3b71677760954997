"""A real MariaDB server on a loopback port and in a folder of its own, for tests that read the shop's database."""

import atexit
import functools
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pymysql  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MISSING = (
    "install MariaDB: apt-get install mariadb-server (Debian/Ubuntu), dnf install mariadb-server (Fedora) or"
    " brew install mariadb (macOS); these tests need its programs mariadbd and mariadb-install-db, not a running service"
)
PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/libexec", "/usr/local/mysql/bin", "/opt/homebrew/bin")
HOST = "127.0.0.1"
PASSWORDS = {"root": "", "carat": "carat-geheim", "reader": "reader-geheim", "flusher": "flusher-geheim"}
GRANTS = {
    "carat": "SELECT, LOCK TABLES, SLAVE MONITOR ON *.*",  # SLAVE MONITOR: MariaDB's part of REPLICATION CLIENT
    "reader": "SELECT ON shop.*",
    "flusher": "SELECT, RELOAD ON *.*",
}
REDO_LOG = "--innodb-log-file-size=16M"
DEFAULTS = (
    REDO_LOG,
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=2",  # 0 forgets the last second of commits when the process is killed
    "--aria-pagecache-buffer-size=8M",
    "--key-buffer-size=1M",
    "--character-set-server=utf8mb4",
    "--default-time-zone=+00:00",
    "--skip-name-resolve",
)
SECONDS_TO_START = 60
SECONDS_TO_STOP = 10
LONGEST_SOCKET_PATH = 100  # in bytes; Linux takes 107, macOS 103
# Servers are started by one thread that lives as long as Python, since each dies with the thread that started it.
STARTER = ThreadPoolExecutor(1, "mariadb-starter")


class DidNotStartError(RuntimeError):
    """The server died or stayed silent; the message ends with the last lines of its log."""


def find_program(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *PLACES)))
    return Path(found) if found else None


def find_server() -> Path | None:
    """The server's program, if everything it takes to run one is installed."""
    return find_program("mariadbd") if find_program("mariadb-install-db") else None


@dataclass
class MariaDB:
    """One server: it can be stopped or killed, and started again on the same data and port."""

    folder: Path
    socket: Path
    options: tuple[str, ...] = ()
    host: str = HOST
    port: int = 0
    ca: Path | None = None
    other_ca: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "mariadbd.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def url(
        self, user: str = "carat", password: str = "carat-geheim", database: str = "shop", **query: str | int
    ) -> str:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        address = f"mysql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"
        return f"{address}?{urlencode(query, quote_via=quote)}" if query else address

    def connect(self, user: str = "carat", **kwargs: Any) -> pymysql.connections.Connection:
        """A connection with its user's own password, and checked against `ca` where there is one."""
        settings = {
            "host": self.host,
            "port": self.port,
            "user": user,
            "password": PASSWORDS.get(user, ""),
            "charset": "utf8mb4",
            "autocommit": True,
        }
        if self.ca and not any(name.startswith("ssl") for name in kwargs):
            settings["ssl"] = ssl.create_default_context(cafile=self.ca)
        return pymysql.connect(**(settings | kwargs))

    def execute(self, *statements: str) -> None:
        """Runs the statements as root, one after the other in one session."""
        with closing(self.connect("root")) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the query answers to root."""
        with closing(self.connect("root")) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def start(self) -> None:
        if self.running:
            raise RuntimeError("the server is already running")
        if not (program := find_server()):
            raise RuntimeError(MISSING)
        pid_file = self.folder / "mariadbd.pid"
        command = [
            *([setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []),  # leaves no orphan
            str(program),
            "--no-defaults",
            *(["--user=root"] if os.geteuid() == 0 else []),
            *DEFAULTS,
            f"--datadir={self.data}",
            f"--tmpdir={self.folder}",
            f"--socket={self.socket}",
            f"--pid-file={pid_file}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            *self.options,
        ]
        with self.log.open("ab") as log:
            start = STARTER.submit(lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            self.process = start.result()
        try:
            self._wait_until_it_answers(pid_file)
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self, pid_file: Path) -> None:
        assert self.process
        give_up = time.monotonic() + SECONDS_TO_START
        while True:
            # The file names this process only once the port is its own: no other server can answer instead.
            if pid_file.exists() and pid_file.read_text().strip() == str(self.process.pid):
                with suppress(pymysql.OperationalError), closing(self.connect("root")):
                    return
            if (died := self.process.poll()) is not None or time.monotonic() > give_up:
                what = f"ended with code {died}" if died is not None else f"did not answer in {SECONDS_TO_START} s"
                raise DidNotStartError(f"mariadbd {what}; its log ends with:\n{self.last_words()}")
            time.sleep(0.01)

    def last_words(self, lines: int = 20) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ends the server in order; one that takes more than 10 seconds is killed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends the server at once, as a crash does (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_mariadb(folder: Path, *, options: Sequence[str] = (), tls: bool = False) -> Iterator[MariaDB]:
    """A server with the database `shop` and the users of `PASSWORDS`; `options` win over the `DEFAULTS`.

    Only its log and certificates are left in `folder` afterwards.
    """
    if not find_server():
        raise RuntimeError(MISSING)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with socket_in(folder) as socket_path:
        server = MariaDB(folder, socket_path, tuple(options))
        if tls:
            server.ca, server.other_ca, tls_options = make_certificates(folder)
            server.options = (*tls_options, *options)
        shutil.copytree(template(), server.data)
        try:
            start_on_a_free_port(server)
            yield server
        finally:
            server.stop()
            shutil.rmtree(server.data, ignore_errors=True)


@contextmanager
def socket_in(folder: Path) -> Iterator[Path]:
    """A path for the server's Unix socket: in the folder, unless that is too deep for one."""
    path = folder / "s.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield path
    else:
        with tempfile.TemporaryDirectory(prefix="mariadb-", dir="/tmp") as short:
            yield Path(short, "s.sock")


def start_on_a_free_port(server: MariaDB, attempts: int = 5) -> None:
    for left in reversed(range(attempts)):
        server.port = free_port()
        try:
            return server.start()
        except DidNotStartError as error:
            if not left or "Bind on TCP/IP port" not in str(error):  # someone else was faster
                raise
    return None


def free_port() -> int:
    """A port below those that Linux gives to outgoing connections, so that it stays free while the server is down."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


@functools.cache
def template() -> Path:
    """A data folder as every server begins with: made once a process, copied for each server."""
    folder = Path(tempfile.mkdtemp(prefix="mariadb-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    users = folder / "users.sql"
    users.write_text(
        "DELETE FROM global_priv WHERE User = 'root' AND Host NOT IN ('localhost', '127.0.0.1', '::1');\n"
        "DELETE FROM proxies_priv WHERE Host <> 'localhost';\n"
        "FLUSH PRIVILEGES;\n"  # the installer runs without privileges, and makes no users until it has read them
        "CREATE DATABASE shop CHARACTER SET utf8mb4;\n"
        + "".join(f"GRANT {GRANTS[name]} TO {name}@'%' IDENTIFIED BY '{PASSWORDS[name]}';\n" for name in GRANTS)
    )
    command = [
        str(find_program("mariadb-install-db")),
        "--no-defaults",
        f"--datadir={folder / 'data'}",
        f"--extra-file={users}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        *(["--user=root"] if os.geteuid() == 0 else []),
        REDO_LOG,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mariadb-install-db failed: {done.stdout[-2000:]}")
    return folder / "data"


def make_certificates(folder: Path, *names: str) -> tuple[Path, Path, tuple[str, ...]]:
    """The server's CA, an unrelated CA, and the options of a server with a certificate of the first.

    The certificate is for the `names`, or for this machine's loopback.
    """
    ca, other_ca = folder / "ca.pem", folder / "other-ca.pem"
    cert_path, key_path = folder / "server.pem", folder / "server.key"
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    other_key = ec.generate_private_key(ec.SECP256R1())
    ca_cert = certificate("Carat test CA", ca_key)
    cert = certificate("the server", key, issuer=ca_cert, issuer_key=ca_key, names=names)
    ca.write_bytes(ca_cert.public_bytes(Encoding.PEM))
    other_ca.write_bytes(certificate("Another CA", other_key).public_bytes(Encoding.PEM))
    cert_path.write_bytes(cert.public_bytes(Encoding.PEM))
    key_path.touch(mode=0o600)
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ca, other_ca, (f"--ssl-ca={ca}", f"--ssl-cert={cert_path}", f"--ssl-key={key_path}")


_BOTH_ENDS = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Certificate | None = None,
    issuer_key: ec.EllipticCurvePrivateKey | None = None,
    names: Sequence[str] = (),
) -> x509.Certificate:
    """A CA, or a certificate that `issuer` signs for the `names`, or for this machine's loopback; valid for one day."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, is_ca, now = issuer_key or key, issuer is None, datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_ca:
        loopback = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address(HOST))]
        subjects = [x509.DNSName(name) for name in names] or loopback
        builder = builder.add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_BOTH_ENDS), critical=False)
    return builder.sign(signer, hashes.SHA256())
