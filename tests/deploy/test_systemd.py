"""The shipped units as `make install-systemd` lays them out, judged by systemd itself."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.paths import CHECKOUT

SOURCE = CHECKOUT / "deploy" / "systemd"
SERVICES = ["carat-hourly.service", "carat-failure@.service", "carat-collector.service", "carat-load.service"]
UNITS = [*SERVICES, "carat-hourly.timer", "carat-collector.socket"]
LARGEST_EXPOSURE = 20  # 2.0, as systemd-analyze wants it said


def install(root: Path, target: str = "install-systemd") -> None:
    done = subprocess.run(
        ["make", "-s", target, f"DESTDIR={root}"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def units_of(root: Path) -> Path:
    return root / "usr/local/lib/systemd/system"


@pytest.fixture
def root(tmp_path) -> Path:
    install(tmp_path)
    return tmp_path


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("systemd-analyze"):
        pytest.fail("systemd-analyze is missing: apt-get install systemd", pytrace=False)
    return subprocess.run(
        ["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def verify(root: Path) -> str:
    """What systemd has to say on the units in a root that has its own units and what ours execute; nothing is best."""
    own = next(path for path in map(Path, ("/usr/lib/systemd/system", "/lib/systemd/system")) if path.is_dir())
    shutil.copytree(own, root / "usr/lib/systemd/system", symlinks=True)
    for unit in SERVICES:
        for program in re.findall(r"^ExecStart=(/\S+)", (units_of(root) / unit).read_text(), flags=re.MULTILINE):
            (root / program[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / program[1:]).touch(mode=0o755)
    return systemd_analyze("verify", f"--root={root}", *(unit.replace("@", "@carat-hourly") for unit in UNITS)).stdout


def test_systemd_has_nothing_to_say_on_the_units(root):
    assert verify(root) == ""


def test_systemd_would_say_so_if_a_directive_were_misspelt(root):
    service = units_of(root) / "carat-hourly.service"
    service.write_text(service.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in verify(root)


@pytest.mark.parametrize("service", SERVICES)
def test_the_exposure_of_a_service_is_2_or_less(service, root):
    judged = systemd_analyze(
        "security", "--offline=true", f"--threshold={LARGEST_EXPOSURE}", str(units_of(root) / service)
    )
    assert judged.returncode == 0, judged.stdout[-500:]
    assert "Overall exposure level" in judged.stdout
    assert "ignoring" not in judged.stdout


def test_memory_may_be_written_and_run_since_polars_and_the_embedded_engine_do(root):
    assert "\nMemoryDenyWriteExecute=false\n" in (units_of(root) / "carat-hourly.service").read_text()


def test_what_is_installed_is_what_is_shipped_and_secrets_are_for_root_alone(root):
    modes = {str(p.relative_to(root)): oct(stat.S_IMODE(p.stat().st_mode)) for p in root.rglob("*") if p.is_file()}
    assert modes == {
        "etc/carat/carat.env": "0o600",
        "etc/carat/on-failure.example": "0o644",
        "usr/local/bin/carat": "0o755",
        "usr/local/lib/sysusers.d/carat.conf": "0o644",
        **{f"usr/local/lib/systemd/system/{unit}": "0o644" for unit in UNITS},
    }
    assert stat.S_IMODE((root / "etc/carat/credentials").stat().st_mode) == 0o700
    assert [unit for unit in UNITS if (units_of(root) / unit).read_bytes() != (SOURCE / unit).read_bytes()] == []


def test_a_second_installation_renews_the_units_and_leaves_settings_and_secrets(root):
    (root / "etc/carat/carat.env").write_text("CARAT_WORKERS=2\n")
    (root / "etc/carat/credentials/warehouse").write_text("clickhouse://u:p@host/")
    (units_of(root) / "carat-hourly.timer").write_text("old")
    install(root)
    assert (root / "etc/carat/carat.env").read_text() == "CARAT_WORKERS=2\n"
    assert (root / "etc/carat/credentials/warehouse").read_text() == "clickhouse://u:p@host/"
    assert (units_of(root) / "carat-hourly.timer").read_bytes() == (SOURCE / "carat-hourly.timer").read_bytes()


def test_what_is_uninstalled_leaves_settings_and_secrets(root):
    (root / "etc/carat/credentials/shop_db").write_text("mysql://u:p@host/shop")
    for _ in range(2):
        install(root, "uninstall-systemd")
        left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        assert left == ["etc/carat/carat.env", "etc/carat/credentials/shop_db"]


def test_every_setting_of_the_example_exists():
    named = set(re.findall(r"CARAT_([A-Z_]+)", (SOURCE / "carat.env.example").read_text()))
    assert named
    assert {name.lower() for name in named} - set(Settings.model_fields) == set()


def test_the_example_changes_nothing_until_a_line_is_taken_in():
    lines = (SOURCE / "carat.env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_commands_run_by_hand_find_what_the_hourly_run_finds():
    def found(unit: str) -> set[str]:
        for specifier, path in (("%S", "/var/lib"), ("%L", "/var/log"), ("%d", "${CREDENTIALS_DIRECTORY}")):
            unit = unit.replace(specifier, path)
        return set(
            re.findall(r"(CARAT_[A-Z_]+=[^\s']+|(?:Load|Set)Credential=[^\s']+|EnvironmentFile=\S+|User=\S+)", unit)
        ) | set(re.findall(r"(?:StateDirectory|LogsDirectory|WorkingDirectory|UMask)[A-Za-z]*=\S+", unit))

    service = found((SOURCE / "carat-hourly.service").read_text())
    assert len(service) >= 12
    assert service == found((SOURCE / "carat").read_text())


def test_all_that_touch_the_spool_mean_the_same_directory():
    texts = {name: (SOURCE / name).read_text() for name in [*SERVICES, "carat"] if "failure" not in name}
    directories = {name: re.findall(r"StateDirectory=(.*?carat/spool)['\n]", text) for name, text in texts.items()}
    assert directories == {name: ["carat carat/spool"] for name in texts} | {"carat-collector.service": ["carat/spool"]}
    spools = {re.search(r"CARAT_SPOOL=(\S+)", text)[1].replace("%S", "/var/lib") for text in texts.values()}
    assert spools == {"/var/lib/carat/spool"}


def test_the_collector_holds_no_secret_but_its_keys_and_has_no_network():
    unit = (SOURCE / "carat-collector.service").read_text()
    assert set(re.findall(r"Credential=(\w+)", unit)) == {"write_keys", "ip_key"}
    assert {"PrivateNetwork=true", "RestrictAddressFamilies=AF_UNIX", "MemoryDenyWriteExecute=true"} <= {
        *unit.splitlines()
    }
    assert "UnsetEnvironment=CARAT_WAREHOUSE CARAT_SHOP_DB" in unit


@pytest.mark.parametrize("service", ["carat-collector.service", "carat-load.service"])
def test_a_service_that_is_always_started_again_says_each_time_that_it_failed(service):
    unit = (SOURCE / service).read_text()
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= {*unit.splitlines()}
    shell, script = re.search(r"^ExecStopPost=\+(/bin/sh) -c '(.+)'$", unit, flags=re.MULTILINE).groups()
    script = script.replace("$$", "$").replace("%n", service).replace("systemctl", "echo")

    def said(result: str) -> str:
        done = subprocess.run(
            [shell, "-c", script], env={"SERVICE_RESULT": result, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout

    assert said("success") == ""
    assert said("exit-code") == f"--no-block start carat-failure@{service}.service\n"


def test_an_option_that_is_none_is_said_to_be_none(tmp_path):
    done = subprocess.run(
        [SOURCE / "install.sh", "--unistall"],
        env={"DESTDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr == "install.sh: unknown option --unistall. There are --no-environment and --uninstall\n"
    assert list(tmp_path.iterdir()) == []
