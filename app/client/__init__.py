"""The middleware that captures a shop's API calls. Needs nothing but Python's own library: see docs/middleware.md."""

from app.client.asgi import CaratASGI
from app.client.sender import CallSender, Stats
from app.client.settings import ClientSettings, Cookie, Header
from app.client.wsgi import CaratWSGI

__all__ = ["CallSender", "CaratASGI", "CaratWSGI", "ClientSettings", "Cookie", "Header", "Stats"]
