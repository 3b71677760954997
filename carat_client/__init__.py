"""The middleware that captures a shop's API calls: see docs/middleware.md.

A package of its own that needs only Python's standard library: a shop installs it without the warehouse's dependencies.
"""

from carat_client.asgi import CaratASGI
from carat_client.sender import CallSender, Stats
from carat_client.settings import ClientSettings, Cookie, Header
from carat_client.wsgi import CaratWSGI

__all__ = ["CallSender", "CaratASGI", "CaratWSGI", "ClientSettings", "Cookie", "Header", "Stats"]
