"""What days are built by, apart from calls and history: the settings and the files they name."""

from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from app import TRANSFORM_VERSION
from app.jobs.build.user_agents import UserAgents
from app.rules.currencies import Currencies, load_currencies
from app.rules.endpoint_map import EndpointMap, load_endpoint_map
from app.rules.session_rules import SessionRules, load_session_rules
from app.rules.snapshot_plan import SnapshotPlan, load_snapshot_plan
from app.settings import Settings


@dataclass(frozen=True)
class BuildRules:
    """The settings and rule files of a build, each read once per run."""

    settings: Settings
    endpoint_map: EndpointMap
    plan: SnapshotPlan
    session_rules: SessionRules
    user_agents: UserAgents
    currencies: Currencies

    @classmethod
    def load(cls, settings: Settings, *, remember_user_agents: bool = True) -> "BuildRules":
        """Read the files that the settings name; SettingsError if one is not valid."""
        session_rules = load_session_rules(settings)
        return cls(
            settings,
            load_endpoint_map(settings.tracking),
            load_snapshot_plan(settings.snapshots),
            session_rules,
            UserAgents(session_rules.devices, remember=remember_user_agents),
            load_currencies(settings),
        )

    @property
    def zone(self) -> ZoneInfo:
        return self.settings.zone

    @property
    def timeout_ms(self) -> int:
        return self.settings.session_timeout_ms

    @property
    def digests(self) -> dict[str, Any]:
        """The rules as columns of the ledger: a difference makes the days built by them stale."""
        return {
            "endpoint_map": self.endpoint_map.digest,
            "currency": self.currencies.target,
            "transform_version": TRANSFORM_VERSION,
            "timezone": self.settings.timezone,
            "session_timeout_ms": self.timeout_ms,
            "no_ids": ",".join(self.settings.no_id_values),
            "product_plan": self.plan.products_digest,
            "session_rules": self.session_rules.digest,
        }

    def for_parallel_days(self, days: int) -> "BuildRules":
        """The rules for each of this many days: those that are built at the same time share the workers."""
        number = max(1, min(self.settings.days_at_once, days))
        workers = max(1, self.settings.workers // number)
        return replace(self, settings=self.settings.model_copy(update={"workers": workers}))
