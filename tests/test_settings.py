"""Where settings come from, which source wins, and what a wrong one says."""

import os
from pathlib import Path

import pytest

from app.core import console, variables
from app.core.errors import SettingsError, WarehouseError
from app.core.variables import secret_file
from app.ops import doctor
from app.ops.doctor import examine
from app.rules.endpoint_map import load_endpoint_map
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import (
    SHIPPED_ENDPOINT_MAPS,
    SHIPPED_SNAPSHOT_PLANS,
    exposed_secrets,
    load_settings,
    unknown_variables,
)
from tests.support.deadline import deadline

SERVER = "clickhouse://{}@host:8123/"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory and an environment without settings."""
    for name in [name for name in os.environ if name.upper().startswith("CARAT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give(folder: Path, monkeypatch, source: str) -> None:
    """Give CARAT_WAREHOUSE in one source, with the source as its user."""
    url = SERVER.format(source)
    if source.endswith("_file"):
        (folder / source).write_text(f"{url}\n")
        url = str(folder / source)
    name = "CARAT_WAREHOUSE" + ("_FILE" if source.endswith("_file") else "")
    if source.startswith("environment"):
        monkeypatch.setenv(name, url)
    else:
        (folder / ".env").write_text(f"# settings\n{name}={url}\n")


@pytest.mark.parametrize("source", ["environment", "environment_file", "dotenv", "dotenv_file"])
def test_a_setting_is_read_from_every_source(folder, monkeypatch, source):
    give(folder, monkeypatch, source)
    assert load_settings().warehouse.user == source
    assert secret_file("warehouse") == (folder / source if source.endswith("_file") else None)


@pytest.mark.parametrize("in_environment", ["environment", "environment_file"])
@pytest.mark.parametrize("in_env_file", ["dotenv", "dotenv_file"])
def test_the_environment_wins_over_the_env_file(folder, monkeypatch, in_environment, in_env_file):
    give(folder, monkeypatch, in_env_file)
    give(folder, monkeypatch, in_environment)
    assert load_settings().warehouse.user == in_environment
    assert secret_file("warehouse") == (folder / in_environment if in_environment.endswith("_file") else None)


def test_a_setting_and_its_file_in_the_environment_are_a_mistake(folder, monkeypatch):
    give(folder, monkeypatch, "environment")
    give(folder, monkeypatch, "environment_file")
    with pytest.raises(
        SettingsError, match="^CARAT_WAREHOUSE and CARAT_WAREHOUSE_FILE are both set in the environment: remove one"
    ):
        load_settings()


def test_a_setting_and_its_file_in_the_env_file_are_a_mistake(folder):
    (folder / ".env").write_text("CARAT_IP_KEY=abc\nCARAT_IP_KEY_FILE=/run/key\n")
    with pytest.raises(SettingsError, match=r"^CARAT_IP_KEY and CARAT_IP_KEY_FILE are both set in \.env: remove one"):
        load_settings()


def test_a_file_that_the_env_file_names_must_be_there(folder):
    (folder / ".env").write_text("CARAT_WAREHOUSE_FILE=/nowhere/url\n")
    with pytest.raises(SettingsError, match="^CARAT_WAREHOUSE_FILE: cannot read /nowhere/url: No such file"):
        load_settings()


def test_an_env_file_that_is_not_text_is_named(folder):
    (folder / ".env").write_bytes(b"CARAT_TIMEZONE=\xff\n")
    with pytest.raises(SettingsError, match=r"^cannot read \.env: it is not UTF-8 text$"):
        load_settings()
    assert [(finding.check, finding.is_ok) for finding in examine()] == [("settings", False)]
    assert variables.log_file() == Path("var/carat.log")


def test_names_of_variables_may_be_in_lower_case(folder, monkeypatch):
    monkeypatch.setenv("carat_timezone", "Europe/Berlin")
    (folder / "key").write_text("0123456789abcdef")
    (folder / ".env").write_text("carat_ip_key_file=key\n")
    settings = load_settings()
    assert (settings.timezone, settings.ip_key.get_secret_value()) == ("Europe/Berlin", "0123456789abcdef")
    assert unknown_variables() == []


# ---- the log -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_environment", "in_env_file", "expected"), [
    (None, None, "var/carat.log"), (None, "b.log", "b.log"), ("a.log", "b.log", "a.log"), ("", "b.log", "b.log"),
])  # fmt: skip
def test_the_log_is_set_like_every_setting(folder, monkeypatch, in_environment, in_env_file, expected):
    if in_environment is not None:
        monkeypatch.setenv("CARAT_LOG", in_environment)
    if in_env_file:
        (folder / ".env").write_text(f"CARAT_LOG={in_env_file}\n")
    assert variables.log_file() == Path(expected)
    if in_environment != "":
        assert load_settings().log == Path(expected)


def test_errors_are_logged_while_other_settings_are_wrong(folder, monkeypatch):
    (folder / ".env").write_text("CARAT_LOG=own.log\nCARAT_TIMEZONE=Mars\n")
    with pytest.raises(SettingsError, match="CARAT_TIMEZONE"):
        load_settings()
    assert variables.log_file() == Path("own.log")


# ---- misspelt names ----------------------------------------------------------------------------------------------


def test_a_misspelt_variable_is_named_with_the_one_that_was_meant(folder, monkeypatch):
    monkeypatch.setenv("CARAT_WAREHOSE", "clickhouse://u:hidden@h")
    monkeypatch.setenv("CARAT_LOG_FILE", "carat.log")
    (folder / ".env").write_text("CARAT_WRITE_KEY_FILE=/run/keys\nOTHER=1\nCARAT_QQQQ=1\n")
    assert unknown_variables() == [
        "CARAT_LOG_FILE in the environment is not a setting. Did you mean CARAT_LOG?",
        "CARAT_WAREHOSE in the environment is not a setting. Did you mean CARAT_WAREHOUSE?",
        "CARAT_QQQQ in .env is not a setting.",
        "CARAT_WRITE_KEY_FILE in .env is not a setting. Did you mean CARAT_WRITE_KEYS_FILE?",
    ]
    monkeypatch.setenv("CARAT_TIMEZONE", "Mars")
    findings = examine()
    assert [(finding.check, finding.is_ok) for finding in findings] == [
        *[("variables", False)] * 4,
        ("settings", False),
    ]
    assert "hidden" not in "".join(finding.detail for finding in findings)


# ---- names of shipped rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED_SNAPSHOT_PLANS.glob("*.toml")))
def test_a_shipped_snapshot_plan_is_chosen_by_its_name(monkeypatch, name):
    monkeypatch.setenv("CARAT_SNAPSHOTS", name)
    assert load_settings().snapshots == SHIPPED_SNAPSHOT_PLANS / f"{name}.toml"
    assert load_snapshot_plan(load_settings().snapshots).tables


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED_ENDPOINT_MAPS.glob("*.toml")))
def test_a_shipped_endpoint_map_is_chosen_by_its_name(monkeypatch, name):
    monkeypatch.setenv("CARAT_TRACKING", name)
    assert load_settings().tracking == SHIPPED_ENDPOINT_MAPS / f"{name}.toml"
    assert load_endpoint_map(load_settings().tracking).calls


def test_a_file_wins_over_a_shipped_plan_of_its_name(folder, monkeypatch):
    (folder / "demo").write_text("")
    monkeypatch.setenv("CARAT_SNAPSHOTS", "demo")
    assert load_settings().snapshots == Path("demo")


@pytest.mark.parametrize("path", ["none.toml", "./demo", "/nowhere/plan"])
def test_a_path_is_not_taken_for_the_name_of_a_shipped_plan(monkeypatch, path):
    monkeypatch.setenv("CARAT_SNAPSHOTS", path)
    assert load_settings().snapshots == Path(path)


def test_a_name_that_is_not_shipped_is_answered_with_those_that_are(monkeypatch):
    monkeypatch.setenv("CARAT_SNAPSHOTS", "wocommerce")
    with pytest.raises(
        SettingsError,
        match="^CARAT_SNAPSHOTS: no file 'wocommerce', and no shipped one of this name. Did you mean woocommerce[?] Choose from demo, magento, medusa, opencart, prestashop, woocommerce",
    ):
        load_settings()
    monkeypatch.setenv("CARAT_TRACKING", "x")
    with pytest.raises(
        SettingsError, match="CARAT_TRACKING: no file 'x', and no shipped one of this name. Choose from demo"
    ):
        load_settings()


# ---- URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "message"), [
    ("CARAT_WAREHOUSE", "clickhouse://u:hidden@h/?secur=true", "unknown option secur. Did you mean secure[?]"), ("CARAT_METABASE_WAREHOUSE", "clickhouse://u:hidden@h/?secur=true", "unknown option secur"),
    ("CARAT_SHOP_DB", "mysql://u:hidden@h/shop?sslmode=required", "unknown option sslmode. Did you mean ssl-mode[?]"), ("CARAT_METABASE_URL", "https://u:hidden@h", "must be an address without user"),
    ("CARAT_WAREHOUSE", "", "must begin with chdb:// or clickhouse://"), ("CARAT_SHOP_DB", "postgres://u:hidden@h/x", "must begin with mysql:// or sqlite://"),
])  # fmt: skip
def test_a_wrong_url_is_named_and_its_password_is_not_shown(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: {message}") as caught:
        load_settings()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", ["CARAT_SHOP_DB", "CARAT_METABASE_URL", "CARAT_METABASE_WAREHOUSE"])
def test_an_optional_url_may_be_empty(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert getattr(load_settings(), name.removeprefix("CARAT_").lower()) is None


def test_no_setting_shows_a_password(monkeypatch):
    monkeypatch.setenv("CARAT_WAREHOUSE", "clickhouse://u:hidden@h/")
    monkeypatch.setenv("CARAT_SHOP_DB", "mysql://u:hidden@h/shop")
    settings = load_settings()
    assert "hidden" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


# ---- files of secrets --------------------------------------------------------------------------------------------


def test_a_pipe_or_a_device_is_no_file_of_a_setting(folder, monkeypatch):
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", Path("/dev/zero"), Path("/dev/null")):
        monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(path))
        with deadline(10), pytest.raises(SettingsError, match=f"^CARAT_WAREHOUSE_FILE: {path} is not a regular file$"):
            load_settings()


@pytest.mark.parametrize(("content", "message"), [
    (b"x" * 300_000, "is larger than 256 KiB: is it the right file[?]"), (b"\xff", "is not UTF-8 text"),
])  # fmt: skip
def test_a_file_that_holds_no_setting_is_named(folder, monkeypatch, content, message):
    (folder / "url").write_bytes(content)
    monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(folder / "url"))
    with pytest.raises(SettingsError, match=f"^CARAT_WAREHOUSE_FILE: {folder / 'url'} {message}"):
        load_settings()


def test_a_folder_is_no_file_of_a_setting(folder, monkeypatch):
    monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(folder))
    with pytest.raises(SettingsError, match=f"^CARAT_WAREHOUSE_FILE: cannot read {folder}: Is a directory$"):
        load_settings()


def test_a_link_to_a_file_is_followed_as_containers_hand_secrets_over(folder, monkeypatch):
    (folder / "data").write_text("chdb://./var/x\n")
    (folder / "url").symlink_to("data")
    monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(folder / "url"))
    assert str(load_settings().warehouse) == "chdb://./var/x"


def test_doctor_names_files_of_secrets_that_everybody_can_read(folder, monkeypatch):
    for name, mode in (("keys", 0o644), ("url", 0o640), (".env", 0o604)):
        (folder / name).write_text("")
        (folder / name).chmod(mode)
    (folder / "url").write_text("chdb://./var/x")
    (folder / ".env").write_text("CARAT_IP_KEY=0123456789abcdef\n")
    monkeypatch.setenv("CARAT_WRITE_KEYS_FILE", str(folder / "keys"))
    monkeypatch.setenv("CARAT_WAREHOUSE_FILE", str(folder / "url"))
    assert exposed_secrets() == [
        f"CARAT_WRITE_KEYS_FILE: every user of this machine can read {folder}/keys: chmod 600 {folder}/keys",
        "every user of this machine can read .env, which holds secrets: chmod 600 .env",
    ]
    found = [finding for finding in examine() if finding.check == "secrets"]
    assert [(finding.is_ok, finding.is_warning) for finding in found] == [(True, True)] * 2


@pytest.mark.parametrize(("url", "detail", "is_warning"), [
    ("clickhouse://u:geheim@127.0.0.1:1/", "CARAT_WAREHOUSE is not encrypted", False),
    ("clickhouse://u:geheim@ch.invalid/", "CARAT_WAREHOUSE is not encrypted: add ?secure=true", True),
    ("clickhouse://u:geheim@127.0.0.1:1/?secure=true", "CARAT_WAREHOUSE is encrypted, certificate verified", False),
    ("clickhouse://u:geheim@127.0.0.1:1/?secure=true&verify=false", "CARAT_WAREHOUSE is encrypted, certificate NOT verified: remove verify=false, and add ca=FILE if the authority is your own", True),
])  # fmt: skip
def test_doctor_says_how_the_connection_is_protected(monkeypatch, url, detail, is_warning):
    monkeypatch.setenv("CARAT_WAREHOUSE", url)
    monkeypatch.setattr(doctor, "open_warehouse", refuse)
    findings = examine()
    assert [(f.detail, f.is_warning) for f in findings if f.check == "encryption"] == [(detail, is_warning)]
    assert not any("geheim" in str(finding) for finding in findings)


def refuse(*_: object, **__: object) -> None:
    raise WarehouseError("no server here")


# ---- the log -----------------------------------------------------------------------------------------------------


def test_the_log_is_readable_by_its_owner_alone(folder):
    before = os.umask(0)
    try:
        console.record_failure(ValueError("x"))
        console.record_failure(ValueError("y"))
    finally:
        os.umask(before)
    assert (folder / "var/carat.log").stat().st_mode & 0o777 == 0o600
    assert len((folder / "var/carat.log").read_text().splitlines()) == 2
