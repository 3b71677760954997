"""The Compose stack: by its schema and two linters, and each of Carat's services as its container would run it."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from app.contracts.grants import Grant, reader_grants, writer_grants
from app.core.variables import VariableSource, describe_unknown
from app.jobs.backup.staged import DATABASE as RESTORED
from app.ops.server_checks import check_version
from app.settings import Settings
from tests.support.clickhouse_http import running_server
from tests.support.compose import COMPOSE, Outside, interpolated_variables, load_compose
from tests.support.deadline import deadline
from tests.support.mariadb import free_port
from tests.support.paths import CHECKOUT

SERVICES = load_compose()["services"]
OWN = [name for name, service in SERVICES.items() if service["image"].startswith("carat:")]
FROM_OTHERS = [name for name in SERVICES if name not in OWN]
PINNED = re.compile(r"[\w./-]+:v?\d+(\.\d+){2,}(-slim)?")


def program(name: str) -> str:
    found = Path(sys.executable).parent / name
    return str(found) if found.exists() else name


# ---- by schema and linters


def validate(compose: dict[str, Any]) -> None:
    schema = json.loads((CHECKOUT / "tests/fixtures/compose-spec/compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose)


def test_the_file_is_valid_by_the_schema_of_compose():
    validate(load_compose())


@pytest.mark.parametrize("key", ["helthcheck", "secret", "image_"])
def test_the_schema_would_refuse_a_misspelt_key(key):
    compose = load_compose()
    compose["services"]["page"][key] = "x"
    with pytest.raises(jsonschema.ValidationError):
        validate(compose)


@pytest.mark.slow
def test_hadolint_has_nothing_to_say_on_the_dockerfile():
    judged = subprocess.run(
        [program("hadolint"), "--no-color", str(CHECKOUT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (judged.returncode, judged.stdout) == (0, "")


@pytest.mark.slow
def test_compose_lint_finds_only_what_is_meant():
    judged = subprocess.run(
        [sys.executable, "-m", "compose_lint", "check", "--format", "json", str(COMPOSE / "compose.yaml")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {(finding["rule_id"], finding["service"]) for finding in json.loads(judged.stdout)["findings"]}
    digests_cannot_be_looked_up_offline = {("CL-0019", name) for name in SERVICES}
    builds_may_take_every_core = {("CL-0026", name) for name in SERVICES}
    images_of_others_begin_as_root_and_write = {(rule, name) for rule in ("CL-0006", "CL-0007") for name in FROM_OTHERS}
    assert (
        found
        - digests_cannot_be_looked_up_offline
        - builds_may_take_every_core
        - images_of_others_begin_as_root_and_write
        == set()
    )


def test_every_image_is_pinned_to_a_patch_release():
    bases = re.findall(r"^FROM (\S+)", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    for image in (*bases, *(service["image"] for service in SERVICES.values())):
        assert PINNED.fullmatch(image), image


def test_the_version_of_clickhouse_is_one_that_doctor_accepts():
    found = check_version(SERVICES["clickhouse"]["image"].partition(":")[2])
    assert (found.is_ok, found.is_warning) == (True, False)


def test_the_image_of_carat_has_the_version_of_carat():
    version = re.search(r'^version = "(.*)"', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert {SERVICES[name]["image"] for name in OWN} == {f"carat:{version}"}


def test_the_final_stage_has_no_root_and_no_build_tools_and_says_whether_it_is_healthy():
    final = (CHECKOUT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in final
    assert "\nHEALTHCHECK " in final
    assert "pip uninstall --yes" in final
    assert not re.search(r"apt-get|gcc|build-essential|pip install|ADD |CARAT_\w*(KEY|WAREHOUSE|SHOP_DB)", final)


def test_the_image_is_built_from_what_the_dockerfile_copies_and_nothing_else():
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    needed = {source.removeprefix("./") for sources in copied for source in sources.split()}
    sent = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == needed
    assert all((CHECKOUT / path).exists() for path in needed)


def test_the_python_of_the_image_is_one_that_the_locks_were_made_for():
    version = re.search(r"^FROM python:(\d+\.\d+)", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)[1]
    assert f"--python-version {version}" in (CHECKOUT / "Makefile").read_text()


@pytest.mark.parametrize("name", OWN)
def test_carat_runs_without_rights_on_a_read_only_file_system(name):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"]  # passes signals on
    assert not service.get("privileged")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_that_stays_is_checked_and_every_memory_is_limited(name):
    service = SERVICES[name]
    assert "test" in service["healthcheck"] or (service["healthcheck"]["disable"] and service["restart"] == "no")
    assert service["mem_limit"]


def test_only_this_machine_can_reach_what_listens_unless_env_says_otherwise():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_collector_cannot_reach_the_warehouse_and_has_no_secret_but_its_keys():
    assert SERVICES["collector"]["secrets"] == ["write_keys"]
    assert not {*SERVICES["collector"]["networks"]} & {*SERVICES["clickhouse"]["networks"]}


def test_what_only_reads_uses_the_user_who_may_only_read():
    assert SERVICES["page"]["secrets"] == ["warehouse_reader"]
    assert SERVICES["carat"]["environment"]["CARAT_METABASE_WAREHOUSE_FILE"] == "/run/secrets/warehouse_reader"


@pytest.mark.parametrize("name", OWN)
def test_every_variable_is_a_setting_and_no_secret_is_one(name):
    variables = SERVICES[name]["environment"]
    assert describe_unknown([VariableSource(name, variables)], Settings.model_fields) == []
    files = {value.rpartition("/")[2] for value in variables.values() if value.startswith("/run/secrets/")}
    assert files == set(SERVICES[name]["secrets"])
    for secret in ("WAREHOUSE", "SHOP_DB", "WRITE_KEYS", "METABASE_API_KEY", "METABASE_WAREHOUSE", "IP_KEY"):
        assert f"CARAT_{secret}" not in variables


def test_the_example_of_env_names_every_variable_with_its_default():
    example = dict(
        line.split("=", 1)
        for line in (COMPOSE / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert example == interpolated_variables()
    validate(load_compose(example))


def test_what_a_service_mounts_is_a_declared_volume_or_a_file_of_the_stack():
    declared = load_compose()["volumes"]
    for service in SERVICES.values():
        for source in (volume.partition(":")[0] for volume in service.get("volumes", [])):
            assert source in declared or (COMPOSE / source).exists()


# ---- secrets


@pytest.fixture
def secrets(tmp_path) -> Path:
    """The directory of the stack, with secrets made."""
    stack = tmp_path / "stack"
    shutil.copytree(COMPOSE, stack, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([stack / "make-secrets.sh"], check=True, capture_output=True)
    return stack / "secrets"


def test_every_secret_of_the_stack_is_made_and_never_made_again(secrets):
    declared = {Path(secret["file"]).name for secret in load_compose()["secrets"].values()}
    assert declared <= {path.name for path in secrets.iterdir()}
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    again = subprocess.run([secrets.parent / "make-secrets.sh"], check=True, capture_output=True)
    assert again.stdout == b""
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700


def test_the_users_of_clickhouse_are_known_by_hashes_of_the_passwords_in_the_urls(secrets):
    users = ET.fromstring((secrets / "clickhouse_users.xml").read_text()).find("users")
    assert users.find("default").attrib == {"remove": "remove"}
    for user, url in (("carat", "warehouse"), ("reader", "warehouse_reader")):
        password = (secrets / f"clickhouse_{user}").read_text()
        hashed = users.find(f"{user}/password_sha256_hex").text
        assert hashed == hashlib.sha256(password.encode()).hexdigest()
        assert (secrets / url).read_text() == f"clickhouse://{user}:{password}@clickhouse:8123/"
        assert password not in (secrets / "clickhouse_users.xml").read_text()


def granted(user: str) -> set[tuple[str, str]]:
    """The rights of a user of the stack, each with what it is on."""
    users = ET.fromstring((COMPOSE / "clickhouse/users.xml.in").read_text()).find("users")
    statements = [
        query.text.removeprefix("GRANT ").partition(" ON ") for query in users.findall(f"{user}/grants/query")
    ]
    return {(right, on) for rights, _, on in statements for right in rights.split(", ")}


def lacks(user: str, wanted: Grant) -> list[str]:
    database = wanted.on.partition(".")[0]
    places = {wanted.on, f"{database}.*", "*.*", "*"}
    return [
        right
        for right in wanted.privileges
        if not {(name, on) for name in ("ALL", right) for on in places} & granted(user)
    ]


def test_the_users_of_clickhouse_have_every_right_that_doctor_wants_and_the_reader_no_other():
    assert [lacks("carat", grant) for grant in writer_grants(has_shop_link=True) if lacks("carat", grant)] == []
    assert [lacks("reader", grant) for grant in reader_grants() if lacks("reader", grant)] == []
    assert {right for right, _ in granted("reader")} == {"SELECT"}
    assert ("ALL", f"{RESTORED}.*") in granted("carat")


def test_the_urls_are_valid_settings(secrets):
    settings = Settings(
        _env_file=None,
        warehouse=(secrets / "warehouse").read_text(),
        shop_db=(secrets / "shop_db_of_the_stack").read_text(),
    )
    assert (settings.warehouse.host, settings.shop_db.host) == ("clickhouse", "mariadb")


def test_no_secret_can_be_committed():
    ignored = (CHECKOUT / ".gitignore").read_text().splitlines()
    assert "/deploy/compose/secrets/" in ignored
    assert not (COMPOSE / ".env").exists() or ".env" in ignored


def test_metabase_gets_its_secrets_from_files(tmp_path, secrets):
    *shell, script = SERVICES["metabase"]["entrypoint"]
    (tmp_path / "run").write_text('#!/bin/sh\necho "$MB_DB_PASS $MB_ENCRYPTION_SECRET_KEY"\n')
    (tmp_path / "run").chmod(0o755)
    script = (
        script.replace("$$", "$")
        .replace("/run/secrets", str(secrets))
        .replace("/app/run_metabase.sh", f"{tmp_path}/run")
    )
    said = subprocess.run([*shell, script], capture_output=True, text=True, check=True).stdout
    assert said.split() == [(secrets / name).read_text() for name in ("metabase_db", "metabase_encryption_key")]


def test_the_shops_database_gets_a_user_who_only_reads(secrets, tmp_path):
    script = (COMPOSE / "mariadb/shop.sh").read_text().replace("/run/secrets", str(secrets))
    said = subprocess.run(
        ["sh", "-c", f"docker_process_sql() {{ cat; }}\n{script}"], capture_output=True, text=True, check=True
    ).stdout
    assert f"IDENTIFIED BY '{(secrets / 'shop_reader').read_text()}'" in said
    assert re.findall(r"GRANT (.*) ON (\S+) TO", said) == [("SELECT, LOCK TABLES", "shop.*")]


# ---- every hour


def hours(folder: Path, *codes: int) -> subprocess.Popen[bytes]:
    """The loop with a `carat` that exits with these codes, one after the other, and hours that take no time."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for code in codes:
        (folder / f"run-{code}").touch()
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    (bin_folder / "carat").write_text(
        f'#!/bin/sh\nread -r code < {folder}/codes || code=0\nsed -i 1d {folder}/codes\necho "$@" >> {folder}/ran\nexit $code\n'
    )
    (bin_folder / "sleep").write_text(f"#!/bin/sh\ntest -s {folder}/codes || exec /bin/sleep 60\n")
    for path in bin_folder.iterdir():
        path.chmod(0o755)
    return subprocess.Popen(
        [COMPOSE / "every-hour.sh", str(folder / "done")],
        env={"PATH": f"{bin_folder}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []


def test_an_hour_that_failed_is_followed_by_the_next_and_wrong_settings_end_it(tmp_path):
    with hours(tmp_path, 1, 75, 0, 2) as loop:
        said = loop.communicate(timeout=60)[1].decode()
    assert loop.returncode == 2
    assert ran(tmp_path) == ["hourly"] * 4
    assert said == "every-hour: carat hourly failed with code 1; it runs again at the next full hour\n"
    assert (tmp_path / "done").exists()


def test_a_failed_hour_does_not_count_as_done(tmp_path):
    with hours(tmp_path, 1, 2) as loop:
        loop.communicate(timeout=60)
    assert not (tmp_path / "done").exists()


def test_the_loop_ends_when_it_is_told_to(tmp_path):
    with hours(tmp_path, 0) as loop, deadline():
        while not (tmp_path / "done").exists():
            time.sleep(0.05)
        loop.terminate()
        assert loop.wait() == 0


# ---- each service, outside of a container


@contextmanager
def running(outside: Outside, name: str) -> Iterator[subprocess.Popen[bytes]]:
    with outside.start(SERVICES[name]) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def healthy(outside: Outside, name: str) -> bool:
    """What the container's health check would say."""
    kind, *test = SERVICES[name]["healthcheck"]["test"]
    if kind == "CMD-SHELL":
        moved = re.sub(r"(?<=[\s(])/[\w./]+", lambda path: outside.moved(path[0]), test[0].replace("$$", "$"))
        command = ["sh", "-c", moved]
    else:
        port = re.search(r"127\.0\.0\.1:(\d+)/", test[-1])[1]
        command = [sys.executable, *test[1:-1], test[-1].replace(port, outside.ports[port])]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_until_healthy(outside: Outside, name: str, process: subprocess.Popen[bytes]) -> None:
    with deadline(120):
        while not healthy(outside, name):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.2)


@pytest.mark.slow
def test_each_service_does_its_work_with_its_arguments_environment_and_secrets_on_a_read_only_disk(secrets):
    folder = secrets.parent
    outside = Outside(folder, {"8787": str(free_port()), "8322": str(free_port())})
    config = folder / "config-of-clickhouse.xml"
    config.write_text(
        (COMPOSE / "clickhouse/carat.xml").read_text().replace("/backups/", f"{folder}/clickhouse-backups/")
    )
    with running_server(folder / "engine", config=config) as server:
        for name in ("warehouse", "warehouse_reader"):
            (secrets / name).write_text(server.url)
        with outside.start(SERVICES["migrate"]) as migrate:
            out, err = migrate.communicate(timeout=300)
        assert (migrate.returncode, b"created table pd.api_calls" in out) == (0, True), err

        with running(outside, "collector") as collector:
            wait_until_healthy(outside, "collector", collector)
            request = urllib.request.Request(
                f"http://127.0.0.1:{outside.ports['8787']}/v1/calls",
                data=json.dumps(
                    [{"ts": "2026-03-01T10:00:00Z", "method": "GET", "endpoint": "/api/v1/products/17"}]
                ).encode(),
                headers={
                    "authorization": f"Bearer {(secrets / 'write_keys').read_text()}",
                    "content-type": "application/json",
                },
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer)["accepted"] == 1

        with running(outside, "loader") as loader, deadline(120):
            assert healthy(outside, "loader")
            while not list((folder / "state/spool/delivered").glob("*.sealed")):
                assert loader.poll() is None, loader.stderr.read()
                time.sleep(0.2)

        assert not healthy(outside, "hourly")
        with running(outside, "hourly") as hourly:
            wait_until_healthy(outside, "hourly", hourly)

        with running(outside, "page") as page:
            wait_until_healthy(outside, "page", page)

        query = SERVICES["carat"] | {"command": ["query", "--format", "csv", "SELECT count() AS n FROM dwh.sessions"]}
        with outside.start(query) as carat:
            out, err = carat.communicate(timeout=120)
        assert out.decode().split() == ['"n"', "1"], err

        with outside.start(SERVICES["carat"] | {"command": ["backup", "/backups/first", "--json"]}) as carat:
            out, err = carat.communicate(timeout=120)
        assert json.loads(out)["tables"]["pd.api_calls"] == 1, err
        assert (folder / "backups/first/manifest.json").exists()


def test_the_writable_places_of_the_image_are_the_volumes_of_the_services():
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    for name in OWN:
        service: dict[str, Any] = SERVICES[name]
        for volume in service.get("volumes", []):
            target = volume.split(":")[1]
            assert target == "/config" or f" {target}" in dockerfile


def test_yaml_has_no_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), keys
        loader.flatten_mapping(node)
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert yaml.load((COMPOSE / "compose.yaml").read_text(), Strict)["name"] == "carat"
