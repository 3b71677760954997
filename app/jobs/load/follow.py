"""`carat load --follow`: delivers the spool as it fills."""

import random
import threading

from app.core import console, watchdog
from app.core.backoff import Backoff
from app.core.errors import CaratError, LockedError, SettingsError
from app.jobs.load.delivery import load_spool
from app.settings import Settings

_POLL_S = 1.0
_LONGEST_PASS_S = 10.0  # then other commands that wait for the warehouse get it first
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 60.0


def follow_spool(settings: Settings, *, stopped: threading.Event) -> None:
    """Deliver whatever is sealed until `stopped` is set; back off while the warehouse fails."""
    backoff = Backoff(_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S)
    is_prepared = False
    while not stopped.is_set():
        watchdog.progress()
        pause_s = _POLL_S
        try:
            delivery = load_spool(
                settings, stopped=stopped, longest_s=_LONGEST_PASS_S, is_prepared=is_prepared
            ).require_done()
            if delivery.segments:
                is_prepared = True
                watchdog.status(f"delivered {delivery.segments} segments, {delivery.totals.records} records")
            backoff.reset()
        except LockedError as error:
            watchdog.status(f"waiting: {error}")
        except SettingsError:
            raise
        except CaratError as error:
            is_prepared = False  # a warehouse that comes back may be another one
            pause_s = backoff.next_s() * random.uniform(0.5, 1)  # noqa: S311  so that several loaders do not return at once
            console.log.warning("the spool could not be delivered", error=str(error), again_in_s=round(pause_s, 1))
            watchdog.status(f"the spool could not be delivered: {error}")
        stopped.wait(pause_s)
