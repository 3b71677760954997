"""Documents point at files that exist, and the README stays short."""

import re
from pathlib import Path

import pytest

from tests.support.paths import CHECKOUT

DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "deploy/*/*.md", "metabase/*.md")
    for path in sorted(CHECKOUT.glob(pattern))
]
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
_PATH = re.compile(r"`((?:app|carat_client|bench|tests|docs|deploy|metabase|examples)/[\w./-]+)`")
_PLACEHOLDERS = ("NAME.yaml", "DASHBOARD.yaml")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_link_leads_to_a_file(document: Path):
    links = _LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_path_that_is_named_exists(document: Path):
    paths = _PATH.findall(document.read_text(encoding="utf-8"))
    named = [path for path in paths if not path.endswith(_PLACEHOLDERS)]
    assert [path for path in named if not (CHECKOUT / path).exists()] == []


def test_the_readme_is_shorter_than_200_lines():
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_architecture_page_shows_every_room():
    page = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (CHECKOUT / "app").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"  {room}/" not in page] == []
