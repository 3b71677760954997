"""The connection to a ClickHouse server over TLS: a wrong certificate is refused, and nothing falls back to plain text."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from app.core.errors import SettingsError, WarehouseError
from app.core.service_url import ServiceUrl
from app.warehouse.client import connect_server
from tests.support.clickhouse_http import RunningServer, running_server
from tests.support.tls_front import Certificates, make_certificates, tls_front

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("clickhouse"), "geheim@/:?#%&") as server:
        yield server


def answer(
    server: RunningServer, port: int, options: str, *, password: str | None = None, host: str = "127.0.0.1"
) -> int:
    login = f"default:{quote(server.password if password is None else password, safe='')}@"
    url = ServiceUrl.parse(f"clickhouse://{login}{host}:{port}/?{options}", "clickhouse")
    with connect_server(url) as warehouse:
        return warehouse.scalar("SELECT 42")


def test_a_server_of_an_own_authority_is_trusted_with_its_certificate(server, certificates):
    with tls_front(server.port, certificates) as port:
        assert answer(server, port, f"secure=true&ca={quote(str(certificates.ca))}") == 42
        assert answer(server, port, f"secure=true&ca={quote(str(certificates.ca))}", host="localhost") == 42


@pytest.mark.parametrize("trusted", ["the system's", "another's"])
def test_a_server_of_an_unknown_authority_is_refused_with_what_to_add(server, certificates, trusted):
    ca = f"&ca={quote(str(certificates.other_ca))}" if trusted == "another's" else ""
    with (
        tls_front(server.port, certificates) as port,
        pytest.raises(WarehouseError, match="CERTIFICATE_VERIFY_FAILED.* add ca=FILE") as refused,
    ):
        answer(server, port, f"secure=true{ca}")
    assert "geheim" not in str(refused.value)


def test_a_server_of_another_name_is_refused(server, tmp_path):
    elsewhere = make_certificates(tmp_path, "elsewhere.example")
    with (
        tls_front(server.port, elsewhere) as port,
        pytest.raises(WarehouseError, match="CERTIFICATE_VERIFY_FAILED|match"),
    ):
        answer(server, port, f"secure=true&ca={quote(str(elsewhere.ca))}")


def test_only_verify_false_turns_the_check_off(server, certificates):
    with tls_front(server.port, certificates) as port:
        assert answer(server, port, "secure=true&verify=false") == 42
        with pytest.raises(WarehouseError, match="CERTIFICATE_VERIFY_FAILED"):
            answer(server, port, "secure=true&verify=true")


def test_a_client_certificate_is_presented_where_it_is_demanded(server, certificates):
    with tls_front(server.port, certificates, demands_client=True) as port:
        trusted = f"secure=true&ca={quote(str(certificates.ca))}"
        cert, key = (quote(str(path)) for path in certificates.client)
        assert answer(server, port, f"{trusted}&cert={cert}&key={key}") == 42
        for wrong in ("", "&cert={}&key={}".format(*(quote(str(path)) for path in certificates.stranger))):
            with pytest.raises(WarehouseError):
                answer(server, port, trusted + wrong)


def test_plain_text_to_a_port_of_tls_and_tls_to_a_plain_port_both_fail(server, certificates):
    with tls_front(server.port, certificates) as port, pytest.raises(WarehouseError):
        answer(server, port, "secure=false")
    with pytest.raises(WarehouseError):
        answer(server, server.port, f"secure=true&ca={quote(str(certificates.ca))}")


@pytest.mark.parametrize("name", ["ca", "cert"])
def test_a_file_that_is_not_there_is_named(server, certificates, name):
    other = "&key=/nowhere.key" if name == "cert" else ""
    with pytest.raises(SettingsError, match=f"^CARAT_WAREHOUSE: cannot read {name}=/nowhere.pem: No such file"):
        answer(server, 1, f"secure=true&{name}=/nowhere.pem{other}")


def test_a_file_that_is_no_certificate_is_refused_without_a_traceback(server, certificates, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with tls_front(server.port, certificates) as port, pytest.raises((SettingsError, WarehouseError)):
        answer(server, port, f"secure=true&ca={quote(str(tmp_path / 'ca.pem'))}")
