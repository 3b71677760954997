"""The type that holds what a column was and what it is now, without losing either."""

import re

_INTEGER = re.compile(r"(U?)Int(\d+)")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")
_MOST_DIGITS = 38
_EXACT_DIGITS = {"Float32": 6, "Float64": 15}
# Digits that an integer of so many bits may have.
_INTEGER_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}


def common_type(was: str, now: str) -> str:  # noqa: PLR0911  one case each
    """The narrowest ClickHouse type that holds every value of both exactly; String if no number or time type does.

    The result is nullable if one of the two is. A column that was made narrower keeps its old type.
    """
    if "Nullable(" in was or "Nullable(" in now:
        return f"Nullable({common_type(_inner(was), _inner(now))})"
    if was == now:
        return was
    if {was, now} == {"Date32", "DateTime64(6, 'UTC')"}:
        return "DateTime64(6, 'UTC')"
    old, new = _INTEGER.fullmatch(was), _INTEGER.fullmatch(now)
    if old and new:
        return _common_integer(bool(old[1]), int(old[2]), bool(new[1]), int(new[2]))
    if {was, now} <= {"Float32", "Float64"}:
        return "Float64"
    digits = {_digits(was), _digits(now)}
    floats = {was, now} & _EXACT_DIGITS.keys()
    if None not in digits and not floats:
        (one, scale), (other, other_scale) = (_digits(was), _digits(now))  # type: ignore[misc]
        needed = max(one, other) + max(scale, other_scale)
        if needed <= _MOST_DIGITS:
            return f"Decimal({needed}, {max(scale, other_scale)})"
    if floats and len(floats) == 1:
        exact = next(_digits(name) for name in (was, now) if name not in _EXACT_DIGITS)
        if exact is not None and sum(exact) <= _EXACT_DIGITS["Float64"]:
            return "Float64"
    return "String"


def _common_integer(was_unsigned: bool, was_bits: int, is_unsigned: bool, is_bits: int) -> str:
    if was_unsigned == is_unsigned:
        return f"{'U' if was_unsigned else ''}Int{max(was_bits, is_bits)}"
    unsigned, signed = (was_bits, is_bits) if was_unsigned else (is_bits, was_bits)
    bits = max(signed, unsigned * 2)
    return f"Int{bits}" if bits <= 64 else "Decimal(20, 0)"  # noqa: PLR2004


def _digits(type_: str) -> tuple[int, int] | None:
    """Digits before and after the point; None if the type is not an exact number."""
    if match := _DECIMAL.fullmatch(type_):
        return int(match[1]) - int(match[2]), int(match[2])
    if match := _INTEGER.fullmatch(type_):
        return _INTEGER_DIGITS[int(match[2])], 0
    return None


def _inner(type_: str) -> str:
    return type_.removeprefix("Nullable(").removesuffix(")") if type_.startswith("Nullable(") else type_
