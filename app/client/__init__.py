"""The middleware that captures a shop's API calls: see docs/middleware.md.

It needs nothing but Python's own library, and its modules name each other relatively: a shop whose own package is
called `app` copies this folder under another name.
"""

from .asgi import CaratASGI
from .sender import CallSender, Stats
from .settings import ClientSettings, Cookie, Header
from .wsgi import CaratWSGI

__all__ = ["CallSender", "CaratASGI", "CaratWSGI", "ClientSettings", "Cookie", "Header", "Stats"]
