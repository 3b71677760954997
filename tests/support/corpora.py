"""Corpora that others maintain, kept in tests/fixtures/corpora, and how well Carat reads them."""

import json
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl
from crawleruseragents import CRAWLER_USER_AGENTS_DATA

from app.frames.devices import read_user_agents
from app.rules.devices import DeviceRules
from tests.support.device_classes import class_of, is_browser
from tests.support.paths import FIXTURES

CORPORA = FIXTURES / "corpora"


def json_suite() -> dict[str, bytes]:
    """The texts of JSONTestSuite by file name, without its ending: y_ must parse, n_ must not, i_ may."""
    with zipfile.ZipFile(CORPORA / "JSONTestSuite" / "test_parsing.zip") as suite:
        return {name.removesuffix(".json"): suite.read(name) for name in sorted(suite.namelist())}


def naughty_strings() -> list[str]:
    """The big list of naughty strings."""
    strings: list[str] = json.loads((CORPORA / "blns" / "blns.json").read_bytes())
    return strings


def write_uci_eshop(path: Path) -> pl.DataFrame:
    """Write the clicks of UCI data set 553 as the CSV file that UCI publishes; returns the same clicks."""
    products = pl.read_csv(CORPORA / "uci-eshop" / "products.csv", separator=";")
    clicks = (
        pl.read_parquet(CORPORA / "uci-eshop" / "clicks.parquet")
        .with_columns(order=pl.int_range(1, pl.len() + 1).over("session ID"))
        .join(products, on="page 2 (clothing model)", how="left", maintain_order="left")
        .select(
            *("year", "month", "day", "order", "country", "session ID", "page 1 (main category)"),
            *("page 2 (clothing model)", *products.columns[1:]),
        )
    )
    clicks.write_csv(path, separator=";")
    return clicks


@dataclass
class Reading:
    """How many cases there were, how many were read right, and the others: user agent, expected, read."""

    cases: int = 0
    right: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.right / self.cases

    def count(self, user_agent: str, expected: str, read: str) -> None:
        self.cases += 1
        self.right += expected == read
        if expected != read:
            self.wrong.append((user_agent, expected, read))

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} {e} as {r}" for (e, r), n in Counter((e, r) for _, e, r in self.wrong).most_common(5))
        return f"{self.share:.2%} of {self.cases:,}{f' ({kinds})' if kinds else ''}"


def uap_cases(name: Literal["browsers", "devices"]) -> pl.DataFrame:
    """The cases of uap-core's tests of that name: `user_agent` and the `family`, of a device also `brand` and `model`."""
    return pl.read_parquet(CORPORA / "uap-core" / f"{name}.parquet")


def crawlers() -> list[str]:
    """The user agents that crawler-user-agents gives as instances."""
    return [instance for entry in CRAWLER_USER_AGENTS_DATA for instance in entry.get("instances", ())]


def read_devices(rules: DeviceRules) -> Reading:
    """The class of every device of uap-core's tests that has one."""
    cases = uap_cases("devices").select("user_agent", "family", "brand", "model")
    expected = {agent: class_of(family, brand, model) for agent, family, brand, model in cases.iter_rows()}
    return _read({agent: kind for agent, kind in expected.items() if kind}, rules)


def read_crawlers(rules: DeviceRules) -> Reading:
    return _read(dict.fromkeys(crawlers(), "bot"), rules)


def read_browsers(rules: DeviceRules) -> Reading:
    """That no browser of uap-core's tests is a machine's."""
    cases = uap_cases("browsers").select("user_agent", "family")
    browsers = [agent for agent, family in cases.iter_rows() if is_browser(family)]
    return _read(dict.fromkeys(browsers, "person"), rules)


def _read(expected: dict[str, str], rules: DeviceRules) -> Reading:
    read = dict(read_user_agents(pl.Series(list(expected)), rules).select("user_agent", "device_type").iter_rows())
    reading = Reading()
    for agent, kind in expected.items():
        found = read[agent]
        reading.count(agent, kind, "person" if kind == "person" and found != "bot" else found)
    return reading
