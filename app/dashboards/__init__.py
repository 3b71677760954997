"""The product officer's dashboards: files in Metabase's format, checked, pushed to Metabase, or shown as a page."""

from app.dashboards.model import (
    DEFAULT_FOLDER,
    Card,
    Collection,
    Dashboard,
    DashCard,
    Library,
    Mapping,
    Parameter,
    Tab,
    Tag,
    load_library,
)

__all__ = [
    "DEFAULT_FOLDER",
    "Card",
    "Collection",
    "DashCard",
    "Dashboard",
    "Library",
    "Mapping",
    "Parameter",
    "Tab",
    "Tag",
    "load_library",
]
