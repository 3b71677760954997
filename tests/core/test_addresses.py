"""What is kept of addresses, and the countries they are from."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from app.core import addresses
from app.core.call_record import RecordLimits
from app.core.errors import SettingsError
from app.jobs import ingest
from app.jobs.build.backfill import build_stale, plan_days
from app.jobs.build.day import JOBS
from app.ops.doctor import examine
from app.rules.countries import load_countries
from app.settings import load_settings
from app.warehouse import migrate
from app.warehouse.client import connect_embedded
from tests.support.mmdb import write_mmdb

KEY = "a key of twenty letters"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("203.0.113.77:4711", "203.0.113.0"),
        ("203.0.113.77, 10.0.0.1", "203.0.113.0"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("2001:db8:1234:5678::1", "2001:db8:1234::"),
        ("[2001:db8:1234:5678::1]:443", "2001:db8:1234::"),
        ("fe80::1%eth0", "fe80::"),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_truncated_address_is_its_network(address, network):
    treat = addresses.truncated().treat
    assert treat(address) == network
    assert treat(treat(address)) == network


def test_hashed_address_says_nothing_without_the_key():
    treat = addresses.hashed(KEY).treat
    assert treat("203.0.113.77") == treat("203.0.113.77:4711") != treat("203.0.113.78")
    assert "203.0.113" not in treat("203.0.113.77")
    assert treat("203.0.113.77") != addresses.hashed(KEY + "!").treat("203.0.113.77")
    assert treat(treat("203.0.113.77")) == treat("203.0.113.77")
    assert treat("") == ""


def test_hashing_without_a_key_is_refused(monkeypatch):
    monkeypatch.setenv("CARAT_IP", "hash")
    with pytest.raises(SettingsError, match="CARAT_IP_KEY"):
        load_settings(_env_file=None)


def test_no_stored_byte_holds_an_address_that_is_not_to_be_kept(warehouse, tmp_path):
    call = {"ts": "2026-03-01T10:00:00Z", "method": "GET", "endpoint": "/", "ip": "203.0.113.77", "user_agent": "UA"}
    twice = call | {"call_id": "0b8f0000-0000-4000-8000-000000000001"}
    lines = [
        json.dumps(call),
        json.dumps(call | {"ts": "never"}),
        '{"ip" : "203.0.113.77", "ts": 1, broken',
        json.dumps(twice),
        json.dumps(twice | {"status": 500}),
    ]
    path = tmp_path / "calls.ndjson"
    path.write_text("\n".join(lines))
    for ips, kept in ((addresses.truncated(), "203.0.113.0"), (addresses.hashed(KEY), "hashed-")):
        for table in ("pd.api_calls", "etl.rejects"):
            warehouse.command(f"TRUNCATE TABLE {table}")
        totals = [ingest.LoadResult(), ingest.LoadResult()]
        for total in totals:
            ingest.ingest_source(warehouse, str(path), now=NOW, totals=total, limits=RecordLimits(9999, addresses=ips))
        assert (totals[0].stored, totals[0].rejected) == (2, {"no time": 1, "not JSON": 1, "call_id taken": 1})
        assert (totals[1].stored, totals[1].duplicates) == (0, 2)  # the same record is the same call
        found = warehouse.query("SELECT ip, visitor_key FROM pd.api_calls")
        assert all(ip.startswith(kept) for ip in found["ip"])
        assert found["visitor_key"].n_unique() == 1
        rejected = warehouse.query("SELECT toString(record) AS record FROM etl.rejects")["record"].to_list()
        assert len(rejected) == 3
        assert all(kept in record and "203.0.113.77" not in record for record in rejected)


@pytest.mark.parametrize(
    "record",
    [
        b'{"ts": 1, "ip": ["203.0.113.77"]}',
        b'{"ts": 1, "ip": {"v4": "203.0.113.77"}}',
        b'{"ts": 1, "ip": 3405803853}',
        b'{"ts": 1, "ip": "203.0.113.77", "ip": null}',
        b'{"ts": 1, "ip": "203.0.113.77", "ip": ["203.0.113.77"]}',
        b'{"ts": 1, "ip": "203.0.113.77',
        b'{"ts": 1, "ip": "203.0.113.77\\',
    ],
)
def test_address_in_an_odd_record_is_not_kept(record):
    treated = addresses.truncated().in_bytes(record)
    assert b"203.0.113.77" not in treated
    assert b"3405803853" not in treated
    assert addresses.truncated().in_bytes(treated) == treated


# ---- countries ---------------------------------------------------------------------------------------------------


def database(tmp_path, german: str = "203.0.113.0/24", **more):
    networks = {german: {"country": {"iso_code": "DE"}}, "2001:db8::/32": {"country": {"iso_code": "FR"}}}
    return write_mmdb(tmp_path / "countries.mmdb", networks, **more)


def test_country_of_an_address_is_what_the_database_says(tmp_path):
    networks = {
        "203.0.113.0/24": {"country": {"iso_code": "DE"}},
        "203.0.113.64/26": {"registered_country": {"iso_code": "AT"}},
        "198.51.100.0/24": {"country": "ch"},
        "192.0.2.0/24": {"country": "Nowhere land"},
        "2001:db8::/32": {"country": {"iso_code": "FR"}},
    }
    countries = load_countries(write_mmdb(tmp_path / "countries.mmdb", networks))
    found = dict(
        countries.of(
            ["203.0.113.9", "203.0.113.77", "198.51.100.1:80", "192.0.2.1", "2001:db8::9", "8.8.8.8", "no address", ""]
        ).iter_rows()
    )
    assert found == {
        "203.0.113.9": "DE", "203.0.113.77": "AT", "198.51.100.1:80": "CH", "192.0.2.1": "", "2001:db8::9": "FR",
        "8.8.8.8": "", "no address": "", "": "",
    }  # fmt: skip
    assert load_countries(None).of(["203.0.113.9"]).rows() == [("203.0.113.9", "")]


def test_file_that_is_no_database_is_refused_by_its_name(tmp_path):
    wrong = tmp_path / "wrong.mmdb"
    wrong.write_text("no database")
    with pytest.raises(SettingsError, match=r"wrong\.mmdb is not a valid MaxMind database"):
        load_countries(wrong)
    with pytest.raises(SettingsError, match=r"cannot read .*missing\.mmdb"):
        load_countries(tmp_path / "missing.mmdb")


@pytest.mark.slow
def test_sessions_have_the_country_of_their_first_address_and_follow_a_new_database(tmp_path, monkeypatch):
    folder = tmp_path / "warehouse"
    folder.mkdir()
    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{folder}")
    monkeypatch.setenv("CARAT_GEO_DATABASE", str(database(tmp_path)))
    calls = [
        {"ts": f"2026-03-01T10:0{n}:00Z", "method": "GET", "endpoint": "/", "visitor_id": "v", "ip": ip}
        for n, ip in enumerate(["", "203.0.113.9", "2001:db8::9"])
    ]
    path = tmp_path / "calls.ndjson"
    path.write_text("\n".join(map(json.dumps, calls)))
    settings = load_settings(_env_file=None)
    with connect_embedded(folder) as warehouse:
        migrate(warehouse, settings)
        ingest.ingest_source(warehouse, str(path), now=NOW, totals=ingest.LoadResult())
        build_stale(warehouse, settings, jobs=JOBS).require_done()
        assert warehouse.query("SELECT country FROM dwh.sessions").rows() == [("DE",)]
        assert plan_days(warehouse, settings, jobs=JOBS) == []

        database(tmp_path, german="192.0.2.0/24", built=1_780_000_000)
        stale = plan_days(warehouse, settings, jobs=JOBS)
        assert [day.day for day in stale] == [date(2026, 3, 1)]
        assert "countries changed" in stale[0].reasons[0]
        build_stale(warehouse, settings, jobs=JOBS).require_done()
        assert warehouse.query("SELECT country FROM dwh.sessions").rows() == [("",)]


def test_doctor_says_how_old_the_countries_are_and_what_is_kept_of_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{tmp_path}/warehouse")
    now = datetime.now(tz=UTC)
    for days, is_ok in ((10, True), (400, False)):
        built = int((now - timedelta(days=days)).timestamp())
        monkeypatch.setenv("CARAT_GEO_DATABASE", str(database(tmp_path, built=built)))
        found = {finding.check: finding for finding in examine()}
        assert found["countries"].is_ok is is_ok
        assert f"{days} days old" in found["countries"].detail
        assert found["addresses"].is_ok
    monkeypatch.setenv("CARAT_IP", "hash")
    monkeypatch.setenv("CARAT_IP_KEY", KEY)
    found = {finding.check: finding for finding in examine()}
    assert not found["addresses"].is_ok
    assert "CARAT_IP=truncate" in found["addresses"].detail
    assert KEY not in str(found)
