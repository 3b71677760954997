"""The rules by which sessions are told apart: devices and bots by user agent and pace, channels by arrival.

They are data, read once a run. `SessionRules.digest` stands in the ledger: where the rules say something else, the days
that were built by them are stale.
"""

import hashlib
from dataclasses import dataclass, field

from app.rules.channels import ChannelRules, load_channel_rules
from app.rules.countries import Countries, load_countries
from app.rules.devices import DeviceRules, load_device_rules
from app.settings import Settings


@dataclass(frozen=True)
class SessionRules:
    """What else than its calls decides what a session is said to be.

    `max_calls_per_minute`: more within any 60 seconds are no person's; 0 believes any number.
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
