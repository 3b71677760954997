"""The middleware as a package of its own: built, installed into an empty environment, imported there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import CHECKOUT


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shop_python(tmp_path_factory) -> Path:
    """The interpreter of an environment that holds nothing but the middleware's wheel."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(CHECKOUT / "carat_client", folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    options = ("--no-index", "--no-deps", "--no-cache-dir")
    run(*pip, "wheel", *options, "--no-build-isolation", "-w", folder, folder / "source", cwd=folder)
    (wheel,) = folder.glob("carat_client-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    run(*pip, "--python", folder / "venv", "install", *options, wheel, cwd=folder)
    return folder / "venv" / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_without_the_warehouse(shop_python, tmp_path):
    program = (
        "import sys, carat_client\n"
        "from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings\n"
        "sender = CallSender(ClientSettings(url='http://collector.example', write_key='k'))\n"
        "assert sender.flush(1)\n"
        "assert 'site-packages' in carat_client.__file__\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'app'))"
    )
    assert run(shop_python, "-I", "-c", program, cwd=tmp_path) == "[]\n"


@pytest.mark.slow
def test_it_works_next_to_a_package_of_the_shop_that_is_called_app(shop_python, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("from carat_client import CaratWSGI\nNAME = 'the shop'\n")
    assert run(shop_python, "-c", "import app; print(app.NAME, app.CaratWSGI.__name__)", cwd=tmp_path) == (
        "the shop CaratWSGI\n"
    )


def test_it_imports_only_the_standard_library_and_itself():
    program = (
        "import sys; before = set(sys.modules); import carat_client\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    command = (sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{program}")
    assert run(*command, cwd=CHECKOUT) == "['carat_client']\n"
