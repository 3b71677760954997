"""The `CARAT_` variables, as nothing else reads them: from the environment, `.env`, and the files of `CARAT_X_FILE`."""

import errno
import os
import stat
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from app.core.errors import SettingsError
from app.core.suggestions import did_you_mean

PREFIX = "CARAT_"
ENV_FILE = ".env"
DEFAULT_LOG = Path("var/carat.log")
_FILE = "_FILE"
_LARGEST_FILE = 256 * 1024
_NEVER_IN_FILES = frozenset({"log"})  # CARAT_LOG_FILE would be taken for the path of the log itself


@dataclass(frozen=True)
class VariableSource:
    """One place that variables are given in: its name in errors, and its variables by their names in upper case."""

    name: str
    variables: Mapping[str, str]

    def has(self, setting: str) -> bool:
        return variable(setting) in self.variables

    def file_of(self, setting: str) -> Path | None:
        """The file that holds a setting here; SettingsError if the setting is given here as well."""
        path = self.variables.get(variable(setting) + _FILE)
        if not path or setting in _NEVER_IN_FILES:
            return None
        if self.has(setting):
            name = variable(setting)
            raise SettingsError(f"{name} and {name}{_FILE} are both set in {self.name}: remove one of the two")
        return Path(path)


def variable(setting: str) -> str:
    """The variable of a setting: `CARAT_SHOP_DB` of `shop_db`."""
    return f"{PREFIX}{setting.upper()}"


def environment() -> VariableSource:
    return VariableSource("the environment", _in_upper_case(os.environ))


def env_file(path: str | Path = ENV_FILE) -> VariableSource:
    """The variables of `.env`, none if there is no such file; SettingsError if it cannot be read."""
    try:
        values = dotenv_values(path) if Path(path).is_file() else {}
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"cannot read {path}: it is not UTF-8 text") from None
    return VariableSource(str(path), _in_upper_case({name: value or "" for name, value in values.items()}))


def read_file(setting: str, path: Path) -> str:
    """The content of the file that holds a setting, without blanks around it.

    A pipe or a device is refused: it could keep the command waiting, or never end.
    """
    name = f"{variable(setting)}{_FILE}"
    try:
        content = _read_regular_file(path)
    except OSError as error:
        raise SettingsError(f"{name}: cannot read {path}: {error.strerror}") from None
    if content is None:
        raise SettingsError(f"{name}: {path} is not a regular file")
    if len(content) > _LARGEST_FILE:
        raise SettingsError(f"{name}: {path} is larger than {_LARGEST_FILE // 1024} KiB: is it the right file?")
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise SettingsError(f"{name}: {path} is not UTF-8 text") from None


def _read_regular_file(path: Path) -> bytes | None:
    """The beginning of a file, one byte more than is allowed; None if it is a pipe, a device or a socket."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe would block
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return file.read(_LARGEST_FILE + 1) if stat.S_ISREG(kind) else None


def exposed_files(settings: Iterable[str], sources: Sequence[VariableSource] | None = None) -> list[str]:
    """A line for each file with these settings, `.env` included, that every user of this machine can read."""
    found = []
    settings = tuple(settings)
    for source in (environment(), env_file()) if sources is None else sources:
        for setting in settings:
            path = source.file_of(setting)
            if path and _is_readable_by_all(path):
                found.append(
                    f"{variable(setting)}{_FILE}: every user of this machine can read {path}: chmod 600 {path}"
                )
        if source.name == ENV_FILE and any(map(source.has, settings)) and _is_readable_by_all(Path(ENV_FILE)):
            found.append(f"every user of this machine can read {ENV_FILE}, which holds secrets: chmod 600 {ENV_FILE}")
    return found


def _is_readable_by_all(path: Path) -> bool:
    with suppress(OSError):
        return bool(path.stat().st_mode & stat.S_IROTH)
    return False


def secret_file(setting: str, sources: Sequence[VariableSource] | None = None) -> Path | None:
    """The file that a setting is read from; None if it is given directly or not at all."""
    for source in (environment(), env_file()) if sources is None else sources:
        if path := source.file_of(setting):
            return path
        if source.has(setting):
            return None
    return None


def log_file() -> Path:
    """The file in which errors are written in full; it is found even while other settings or `.env` are invalid."""
    sources = [environment()]
    with suppress(SettingsError):
        sources.append(env_file())
    return next((Path(path) for source in sources if (path := source.variables.get(variable("log")))), DEFAULT_LOG)


def describe_unknown(sources: Iterable[VariableSource], settings: Iterable[str]) -> list[str]:
    """A line for each `CARAT_` variable that is not a setting's, with the one that was probably meant."""
    settings = tuple(settings)
    known = {variable(setting) for setting in settings}
    known |= {variable(setting) + _FILE for setting in settings if setting not in _NEVER_IN_FILES}
    return [
        f"{name} in {source.name} is not a setting. {did_you_mean(_without_file(name, known), known)}".rstrip()
        for source in sources
        for name in sorted(source.variables)
        if name.startswith(PREFIX) and name not in known
    ]


def _without_file(name: str, known: Container[str]) -> str:
    """The variable whose name this one has before _FILE, where it cannot be given in a file."""
    setting = name.removesuffix(_FILE)
    return setting if setting in known else name


def _in_upper_case(variables: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in variables.items()}
