"""The product officer's dashboards: files in Metabase's format, checked, pushed to Metabase, or shown as a page."""

from pathlib import Path

DEFAULT_FOLDER = Path(__file__).parents[2] / "metabase"
