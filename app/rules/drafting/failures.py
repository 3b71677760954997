"""What sets failed calls apart where the status does not: an error in the answer, a state, an order without an id."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.rules.drafting import words
from app.rules.drafting.operations import literal
from app.rules.drafting.shapes import Path, Profile, expression_of, has_value
from app.rules.field_path import ITEMS

_ERRORS = frozenset({"error", "errors", "usererrors", "haserror", "errormessage", "checkouterrors"})
_STATES = frozenset({"status", "state", "paymentstatus", "result", "outcome", "code"})
_FAILED = frozenset({
    "failed", "failure", "fail", "declined", "error", "rejected", "denied", "cancelled", "canceled", "expired",
    "refused",
})  # fmt: skip


@dataclass(frozen=True)
class Success:
    """A condition that successful answers meet, and why; `failed` are the numbers of the samples that do not."""

    condition: str
    reason: str
    failed: frozenset[int]


def success_conditions(profile: Profile, event: str) -> list[Success]:
    """Conditions that separate failed answers from successful ones, each for samples that the others leave."""
    everything = frozenset(range(len(profile.samples)))
    excluded: frozenset[int] = frozenset()
    kept: list[Success] = []
    for one in (*_order_has_id(profile, event), *_no_error(profile), *_is_success(profile), *_states(profile)):
        if (
            one.failed - excluded or (event == "purchase" and not kept and one.reason.startswith("an order"))
        ) and one.failed < everything:
            kept.append(one)
            excluded |= one.failed
    return kept


def _order_has_id(profile: Profile, event: str) -> Iterator[Success]:
    if event != "purchase":
        return
    answered = [path for path in profile.order_ids() if path[0] == "response"]
    if not answered:
        return
    first = answered[0]
    numbers = set(_with_value(profile, first))
    paths = [first]
    for other in answered[1:]:  # other shapes of an answer, in which the first id is missing
        found = set(_with_value(profile, other))
        if not found & numbers:
            paths.append(other)
            numbers |= found
    failed = frozenset(range(len(profile.samples))) - numbers
    yield Success(" || ".join(expression_of(path) for path in paths), "an order has an id", failed)


def _with_value(profile: Profile, path: Path) -> Iterator[int]:
    for number, values in profile.leaves.get(path, {}).items():
        if any(has_value(value) for value in values):
            yield number


def _no_error(profile: Profile) -> Iterator[Success]:
    failed: dict[Path, set[int]] = {}
    for path, found in profile.leaves.items():
        place = next((n for n, key in enumerate(path) if words.plain(key) in _ERRORS), None)
        if path[0] == "response" and place is not None and ITEMS not in path[:place]:
            numbers = {number for number, values in found.items() if any(has_value(value) for value in values)}
            failed.setdefault(path[: place + 1], set()).update(numbers)
    for path, numbers in sorted(failed.items(), key=lambda one: (len(one[0]), one[0])):
        if numbers:
            yield Success(
                f"!{expression_of(path)}", f"{expression_of(path)} is set in {len(numbers)} answers", frozenset(numbers)
            )


def _is_success(profile: Profile) -> Iterator[Success]:
    for path, found in sorted(profile.leaves.items()):
        if path[0] == "response" and ITEMS not in path and words.plain(path[-1]) == "success":
            numbers = {number for number, values in found.items() if not has_value(values[0])}
            if numbers:
                yield Success(
                    expression_of(path), f"{expression_of(path)} is false in {len(numbers)} answers", frozenset(numbers)
                )


def _states(profile: Profile) -> Iterator[Success]:
    for path, found in sorted(profile.leaves.items(), key=lambda one: (len(one[0]), one[0])):
        if path[0] != "response" or ITEMS in path or words.plain(path[-1]) not in _STATES:
            continue
        failed: dict[str, set[int]] = {}
        for number, values in found.items():
            if isinstance(values[0], str) and values[0].lower() in _FAILED:
                failed.setdefault(values[0], set()).add(number)
        if failed:
            condition = " && ".join(f"{expression_of(path)} != {literal(value)}" for value in sorted(failed))
            numbers = frozenset(number for numbers in failed.values() for number in numbers)
            yield Success(
                condition, f"{expression_of(path)} is {', '.join(sorted(failed))} in {len(numbers)} answers", numbers
            )
