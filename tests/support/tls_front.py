"""TLS in front of a plain server: what a load balancer, or ClickHouse's own HTTPS port, looks like to a client."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.mariadb import certificate

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the server's authority and another, and certificate and key of the server and of a client."""

    ca: Path
    other_ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    stranger: tuple[Path, Path]


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Certificates of one day; the server's is for the `names`, or for this machine's loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, other_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authorities = {"ca": certificate("Carat test CA", ca_key), "other": certificate("Another CA", other_key)}
    for name, cert in authorities.items():
        (folder / f"{name}.pem").write_bytes(cert.public_bytes(Encoding.PEM))

    def issued(name: str, issuer: str, *hosts: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        signer = ca_key if issuer == "ca" else other_key
        cert = certificate(name, key, issuer=authorities[issuer], issuer_key=signer, names=hosts)
        files = folder / f"{name}.pem", folder / f"{name}.key"
        files[0].write_bytes(cert.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    return Certificates(
        folder / "ca.pem",
        folder / "other.pem",
        issued("server", "ca", *names),
        issued("client", "ca"),
        issued("stranger", "other"),
    )


@contextmanager
def tls_front(port: int, certificates: Certificates, *, demands_client: bool = False) -> Iterator[int]:
    """A port that speaks TLS and passes everything on to a plain port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    if demands_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, context, port), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with (
        suppress(OSError),  # an SSLError is one
        context.wrap_socket(client, server_side=True) as front,
        socket.create_connection((HOST, port)) as back,
    ):
        answering = threading.Thread(target=_copy, args=(back, front), daemon=True)
        answering.start()
        _copy(front, back)
        with suppress(OSError):
            back.shutdown(socket.SHUT_WR)
        answering.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
