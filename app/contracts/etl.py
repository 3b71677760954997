"""The contracts of `etl`: runs, rejects, and what Carat remembers of its own work."""

from app.contracts.pd import FSYNC_SETTINGS
from app.contracts.table import Table
from app.contracts.types import LABEL, TIME, Column

RUNS = Table(
    "etl", "runs",
    "One row per run, job and day: what was done, how long it took, how it ended.",
    (
        Column("run_id", "String", "the run"),
        Column("job", LABEL, "ingest, load, snapshot, hourly, or etl: the build of a day"),
        Column("day", "Nullable(Date)", "business day that was built"),
        Column("started_at", TIME, "when it began"),
        Column("ended_at", TIME, "when it ended"),
        Column("state", LABEL, "done or failed"),
        Column("rows_in", "UInt64", "rows read"),
        Column("rows_out", "UInt64", "rows written"),
        Column("rows_rejected", "UInt64", "records or values that could not be used"),
        Column("seconds", "Float64", "how long it took"),
        Column("error", "String", "why it failed"),
    ),
    order_by="(started_at, run_id)",
)  # fmt: skip

REJECTS = Table(
    "etl", "rejects",
    "Records that could not be stored, each with its reason and its bytes: nothing is dropped in silence.",
    (
        Column("rejected_at", TIME, "when"),
        Column("source", "String", "file the record came from, or stdin"),
        Column("position", "UInt64", "line or row in that source, from 1"),
        Column("reason", LABEL, "why, in few words"),
        Column("detail", "String", "why, exactly"),
        Column("record_bytes", "UInt64", "size of the record"),
        Column("record", "String", "the record's bytes (the first 64 MiB of it)", codec="ZSTD(3)", holds_bytes=True),
        Column("reject_id", "String", "hash of source, position, reason and bytes: a rerun adds nothing"),
    ),
    order_by="(rejected_at, reject_id)",
    settings=FSYNC_SETTINGS,
)  # fmt: skip

PUBLICATIONS = Table(
    "etl", "publications",
    "Journal of publishing: a day whose last state is publishing is published again on start.",
    (
        Column("publication_id", "String", "one build of one day"),
        Column("at", TIME, "when"),
        Column("day", "Date", "business day"),
        Column("tables", "Array(String)", "tables of dwh that are replaced together"),
        Column("state", LABEL, "publishing or published"),
    ),
    order_by="(at, publication_id)",
)  # fmt: skip

LEDGER = Table(
    "etl", "ledger",
    "What each business day and table was built from; a day is stale when this differs from what is there now.",
    (
        Column("day", "Date", "business day"),
        Column("job", LABEL, "the table that was built"),
        Column("built_at", TIME, "when it was built, or last found to be what its inputs say"),
        Column("calls", "UInt64", "raw calls of the day"),
        Column("raw_fingerprint", "UInt64", "sum of the hashes of the day's raw calls"),
        Column("previous_days_fingerprint", "UInt64", "the same of all calls of the two days before"),
        Column("next_day_fingerprint", "UInt64", "the same of all calls of the day after"),
        Column("earlier_fingerprint", "UInt64", "calls of the day before by visitors who went on into this day"),
        Column("later_fingerprint", "UInt64", "calls of the day after that sessions of this day reach into"),
        Column("endpoint_map", "String", "digest of the endpoint map"),
        Column("currency", LABEL, "currency of the amounts in dwh"),
        Column("rates", "String", "digest of the day's exchange rates; empty if nothing was converted"),
        Column("transform_version", "UInt32", "version of the rules by which calls become rows"),
        Column("timezone", LABEL, "business time zone"),
        Column("session_timeout_ms", "UInt64", "pause after which a session ends"),
        Column("no_ids", "String", "the ids that count as none"),
        Column("product_plan", "String", "digest of what the snapshot plan says of products; of product_sessions only"),
        Column("session_rules", "String", "digest of the rules for devices, bots, channels, countries; not of events"),
        Column("history_until", TIME, "last call of the day's sessions: later versions of products cannot matter"),
        Column("history_fingerprint", "UInt64", "versions of the products' rows up to then; of product_sessions only"),
        Column("lookup_fingerprint", "UInt64", "versions, up to then, of the rows that the endpoint map looks up"),
        Column("orders_elsewhere", "UInt64", "hash of the day's orders that were placed on another day; not of events"),
        Column("rows", "UInt64", "rows of the table for the day"),
        Column("unreadable", "UInt64", "JSON values the endpoint map names that could not be read when it was parsed"),
    ),
    order_by="(day, job, built_at)",
)  # fmt: skip

COVERAGE = Table(
    "etl", "coverage",
    "What the endpoint map made of each day's calls, per entry and field; of a day the rows built last count.",
    (
        Column("day", "Date", "business day"),
        Column("built_at", TIME, "when it was counted: right after the day was published"),
        Column("map_entry", LABEL, "entry of the endpoint map; empty for successful calls that fit none"),
        Column("event", LABEL, "event of the entry; other where there is none"),
        Column("field", LABEL, "field of the entry, a filter as filters.NAME; empty for the entry itself"),
        Column("calls", "UInt64", "calls of the day that fit the entry; failed calls fit none and are not counted"),
        Column("filled", "UInt64", "calls of these with a value in the field"),
        Column("unreadable", "UInt64", "values that could not be read when calls were typed; of an entry, documents"),
        Column("without_rate", "UInt64", "amounts in a currency that has no rate, so that they count nowhere"),
        Column("problem", "String", "why the map seems not to fit here; empty if it does"),
        Column("fix", "String", "how to fix that"),
        Column("endpoints", "Array(String)", "where no entry fits: the paths with most calls, ids as {id}"),
        Column("endpoint_calls", "Array(UInt64)", "calls of each of these"),
    ),
    order_by="(day, map_entry, event, field)",
    engine="ReplacingMergeTree(built_at)",
)  # fmt: skip

FINGERPRINTS = Table(
    "etl", "fingerprints",
    "What the parts of raw calls and of history hold, hashed once a part: how stale days are found without reading.",
    (
        Column("source", LABEL, "the table and what of it is hashed"),
        Column("part", "String", "checksum of the part's files: parts of other content have another"),
        Column("at", TIME, "quarter of an hour of the calls; of history, the instant from which the versions hold"),
        Column("rows", "UInt64", "rows of the part that belong to it"),
        Column("fingerprint", "UInt64", "sum of their hashes"),
    ),
    order_by="(source, part, at)",
)  # fmt: skip

CALL_ID_FILTERS = Table(
    "etl", "call_id_filters",
    "Which ids the calls of a part may have, so that few parts are searched for them; may be emptied at any time.",
    (
        Column("part", "String", "checksum of the part's files: parts of other content have another"),
        Column("form", LABEL, "how an id chooses bits: filters of another form are not used"),
        Column("words", "Array(UInt64)", "a Bloom filter in blocks of 1024 bits", codec="NONE"),
    ),
    order_by="(form, part)",
)  # fmt: skip

USER_AGENTS = Table(
    "etl", "user_agents",
    "What user agents say, so that each is read once; may be emptied at any time.",
    (
        Column("user_agent", "String", "as the shop's calls carry it"),
        Column("rules", LABEL, "digest of the rules by which it was read"),
        Column("device_type", LABEL, "desktop, mobile, tablet, tv, bot or other"),
        Column("device_brand", LABEL, "maker of the device; empty if unknown"),
        Column("os", LABEL, "operating system; empty if unknown"),
        Column("browser", LABEL, "browser; empty if unknown"),
        Column("bot_reason", LABEL, "why it is a machine's; empty for people"),
        Column("read_at", TIME, "when it was read"),
    ),
    order_by="(user_agent, rules)",
)  # fmt: skip

SNAPSHOTS = Table(
    "etl", "snapshots",
    "Journal of snapshots: one row per snapshot, table and state; a table's last state is what became of it.",
    (
        Column("snapshot_id", "String", "one run of `carat snapshot`"),
        Column("table", LABEL, "the table of history"),
        Column("at", TIME, "the instant of the snapshot: valid_from of what it changed"),
        Column("recorded_at", TIME, "when this row was written"),
        Column("state", LABEL, "publishing, then done; or failed: refused or unreadable, nothing was changed"),
        Column("mode", LABEL, "append; rewrite when columns or their types changed; rebuild when history started over"),
        Column("guarantee", "String", "what instant was read, and what is not guaranteed of it"),
        Column("rows", "UInt64", "rows that the shop's table had"),
        Column("inserts", "UInt64", "rows that came, or came back"),
        Column("updates", "UInt64", "rows that changed"),
        Column("deletes", "UInt64", "rows that went"),
        Column("bounded", "UInt64", "dates before 1900 or after 2299, clipped to the nearest that can be stored"),
        Column("columns", "Array(String)", "columns of the shop's table that were kept, each with its type"),
        Column("added", "Array(String)", "columns that came with this snapshot"),
        Column("dropped", "Array(String)", "columns that went with it: null from now on"),
        Column("retyped", "Array(String)", "columns whose type changed, from what to what"),
        Column("staged_uuid", "String", "the staged table: how an interrupted swap is told from a finished one"),
        Column("seconds", "Float64", "how long it took"),
        Column("error", "String", "why it was refused or failed"),
    ),
    order_by="(table, recorded_at)",
)  # fmt: skip

FORGOTTEN = Table(
    "etl", "forgotten",
    "Who asked to be forgotten, as keyed hashes: calls and rows of theirs that come later are not stored.",
    (
        Column("forgotten_at", TIME, "when; of devices only calls up to then are refused"),
        Column("kind", LABEL, "what is recognised: an id, a single call, where first calls came from, words of a text"),
        Column("digest", "String", "hash of the key, the kind and what is recognised"),
        Column("key", "String", "random, the same for all"),
    ),
    order_by="(kind, digest)",
)  # fmt: skip

PREPARED = Table(
    "etl", "prepared",
    "Digests of tables and views in which a migration found nothing to change; may be emptied at any time.",
    (
        Column("digest", "String", "of what the migration wanted, and of the tables and views that it found"),
        Column("at", TIME, "when it looked"),
    ),
    order_by="digest",
)  # fmt: skip
