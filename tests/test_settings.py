"""Where settings come from, which source wins, and what a wrong one says."""

import os
from pathlib import Path

import pytest

from app.core import variables
from app.core.errors import SettingsError
from app.core.variables import secret_file
from app.ops.doctor import examine
from app.rules.endpoint_map import load_endpoint_map
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import SHIPPED_ENDPOINT_MAPS, SHIPPED_SNAPSHOT_PLANS, load_settings, unknown_variables

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
        match="^CARAT_SNAPSHOTS: no file 'wocommerce', and no shipped one of this name. Did you mean woocommerce[?] Choose from demo, opencart, prestashop, woocommerce",
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
