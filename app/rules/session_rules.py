"""The rules that classify sessions: devices and bots by user agent and pace, channels by arrival.

They are read once per run. The ledger stores `SessionRules.digest`; days that were built with other rules are stale.
"""

import hashlib
from dataclasses import dataclass, field

from app.rules.channels import ChannelRules, load_channel_rules
from app.rules.countries import Countries, load_countries
from app.rules.devices import DeviceRules, load_device_rules
from app.settings import Settings


@dataclass(frozen=True)
class SessionRules:
    """Everything but its calls that decides how a session is classified.

    `max_calls_per_minute`: a session with more calls within any 60 seconds is a bot's; 0 disables the check.
    """

    devices: DeviceRules
    channels: ChannelRules
    max_calls_per_minute: int
    countries: Countries = field(default_factory=Countries)

    @property
    def digest(self) -> str:
        parts: tuple[object, ...] = (self.devices.digest, self.channels.digest, self.max_calls_per_minute)
        if self.countries.digest:
            parts += (self.countries.digest,)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def load_session_rules(settings: Settings) -> SessionRules:
    """The rules that the settings name; SettingsError names file, line and key of the first mistake."""
    return SessionRules(
        load_device_rules(settings.devices),
        load_channel_rules(settings.channels, own_hosts=settings.own_host_names),
        settings.max_calls_per_minute,
        load_countries(settings.geo_database),
    )
