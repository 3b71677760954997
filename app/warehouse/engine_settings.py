"""The engine's settings that each connection fixes, whatever the profile of its user says.

A profile can change what SQL means (`join_use_nulls`), what becomes of an insert (`async_insert`) and how values travel
(`output_format_arrow_*`). Carat's results must not depend on it, so these are sent with every connection. A user that
may not change settings (`readonly = 1`) can read nevertheless, as long as its profile agrees where it matters.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.core.errors import WarehouseError
from app.core.sql import quote
from app.warehouse.advice import quote_user

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

UTC = "UTC"
_OVERFLOW_MODES = (
    "timeout_overflow_mode", "timeout_overflow_mode_leaf", "read_overflow_mode", "read_overflow_mode_leaf",
    "result_overflow_mode", "group_by_overflow_mode", "sort_overflow_mode", "distinct_overflow_mode",
    "join_overflow_mode", "set_overflow_mode", "transfer_overflow_mode",
)  # fmt: skip

# What a query means, and which of its rows arrive.
MEANING: dict[str, Any] = {
    "session_timezone": UTC,
    "dialect": "clickhouse",
    "enable_analyzer": 1,
    "join_use_nulls": 0,
    "join_default_strictness": "ALL",
    "any_join_distinct_right_table_keys": 0,
    "group_by_use_nulls": 0,
    "aggregate_functions_null_for_empty": 0,
    "empty_result_for_aggregation_by_empty_set": 0,
    "empty_result_for_aggregation_by_constant_keys_on_empty_set": 1,
    "transform_null_in": 0,
    "cast_keep_nullable": 0,
    "data_type_default_nullable": 0,
    "least_greatest_legacy_null_behavior": 0,
    "union_default_mode": "",
    "intersect_default_mode": "ALL",
    "except_default_mode": "ALL",
    "count_distinct_implementation": "uniqExact",
    "enable_positional_arguments": 1,
    "enable_global_with_statement": 1,
    "prefer_column_name_to_alias": 0,
    "prefer_global_in_and_join": 0,
    "final": 0,
    "implicit_transaction": 0,
    "limit": 0,
    "offset": 0,
    "extremes": 0,
    "additional_table_filters": "{}",
    "additional_result_filter": "",
    "asterisk_include_alias_columns": 0,
    "asterisk_include_materialized_columns": 0,
    "asterisk_include_virtual_columns": 0,
    "decimal_check_overflow": 1,
    "date_time_overflow_behavior": "ignore",
    "date_time_input_format": "best_effort",
    "date_time_output_format": "simple",
    "date_time_64_output_format_cut_trailing_zeros_align_to_groups_of_thousands": 0,
    "output_format_decimal_trailing_zeros": 0,
    "short_circuit_function_evaluation": "enable",
    "use_query_cache": 0,  # an answer from before the last build
    "apply_deleted_mask": 1,
    "skip_unavailable_shards": 0,
    "force_primary_key": 0,
    "force_index_by_date": 0,
    **dict.fromkeys(_OVERFLOW_MODES, "throw"),  # `break` returns the rows so far, without a word
}

# What becomes of a write: when it is there, and whether it can be taken for an earlier one.
DURABILITY: dict[str, Any] = {
    "async_insert": 0,  # servers since 26.2 collect small inserts, with their own deduplication
    "wait_for_async_insert": 1,
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
    "insert_null_as_default": 1,
    "input_format_null_as_default": 1,
    "input_format_defaults_for_omitted_fields": 1,
    "input_format_force_null_for_omitted_fields": 0,
    "input_format_arrow_allow_missing_columns": 1,
    "input_format_arrow_case_insensitive_column_matching": 0,
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
    "max_partitions_per_insert_block": 0,  # a batch of calls may hold late ones of any age
    "mutations_sync": 1,
    "alter_sync": 1,
    "lightweight_deletes_sync": 2,
    "flatten_nested": 1,
    "default_table_engine": "MergeTree",
}

# How results travel. A reader gets along with other values of these.
TRANSPORT: dict[str, Any] = {
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_fixed_string_as_fixed_byte_array": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_arrow_date_as_uint16": 0,
    "output_format_arrow_uuid_as_fixed_byte_array": 0,
    "output_format_arrow_compression_method": "none",  # the reader is in the same process or on the same network
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 0,
    "output_format_json_named_tuples_as_objects": 1,
    "max_query_size": 16 * 1024 * 1024,
}

# A server keeps what it compiles for all clients. A single run seldom repeats an expression often enough to pay for it.
EMBEDDED: dict[str, Any] = {
    "compile_expressions": 0,
    "compile_aggregate_expressions": 0,
    "compile_sort_description": 0,
}
# On ClickHouse Cloud the next statement may run on another replica.
CLOUD: dict[str, Any] = {"select_sequential_consistency": 1, "alter_sync": 2, "mutations_sync": 2}
_FEWEST_SETTINGS = 500
PINNED: dict[str, Any] = MEANING | DURABILITY | TRANSPORT


def pin_embedded(client: "Client") -> None:
    """Fix the settings of a connection to the embedded engine, in one statement: it takes no others with a query."""
    values = ", ".join(f"{name} = {quote(str(value))}" for name, value in (PINNED | EMBEDDED).items())
    client.command(f"SET {values}")


def pin_server(client: "Client", *, user: str, writes: bool) -> None:
    """Fix the settings of a connection to a server; those that its version does not know are left out.

    Where the user may not change a setting (`readonly = 1`, a constraint) and its value would change results or, for a
    writer, the fate of inserts, raises WarehouseError that says what to grant.
    """
    needed = MEANING | DURABILITY if writes else MEANING
    wrong: dict[str, str] = {}
    # A profile with `limit` or a filter of results cuts the list of settings, too.
    is_listed = len(client.server_settings) >= _FEWEST_SETTINGS
    cloud = client.server_settings.get("cloud_mode")
    pinned = PINNED | CLOUD if cloud and cloud.value == "1" else PINNED
    for name, value in pinned.items():
        known = client.server_settings.get(name)
        if known is None and is_listed:
            continue
        if known is None or not known.readonly:
            client.set_client_setting(name, value)
        elif name in needed and known.value != str(value) and not (name == "session_timezone" and _is_utc(client)):
            wrong[name] = known.value
    if wrong:
        raise WarehouseError(how_to_unfix(user, wrong, "results or inserts" if writes else "results"))


def how_to_unfix(user: str, fixed: Mapping[str, str], changed: str) -> str:
    """What to run where the user may not change settings whose values in its profile change results or inserts."""
    found = ", ".join(f"{name} = {quote(value)}" for name, value in fixed.items())
    wanted = ", ".join(f"{name} = {_literal(PINNED[name])}" for name in fixed)
    return (
        f"user {user} may not change settings, and its profile has {found}, which changes {changed}. As an "
        f"administrator, run: ALTER USER {quote_user(user)} MODIFY SETTINGS {wanted}"
    )


def _is_utc(client: "Client") -> bool:
    """Whether the server's own time zone, which counts where none is set, is UTC."""
    is_unset = not client.server_settings["session_timezone"].value
    return is_unset and str(client.server_tz) in {"UTC", "Etc/UTC", "UCT", "Etc/UCT", "Zulu", "Etc/Zulu"}


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else quote(str(value))
