"""Every metric there is, in one list. Label values come from closed sets, never from clients.

The roles are several processes: the supervisor sets PROMETHEUS_MULTIPROC_DIR before it starts them, each writes its
own files there, and the admin role adds them up for /metrics. docs/metrics.md names every one (a test compares).
"""

from __future__ import annotations

from collections import Counter as Multiset

from prometheus_client import Counter, Gauge, Histogram


class Tally:
    """Counts on the hot path, moved into their metrics once a second.

    With several processes a Counter writes to a mapped file, under a lock, at every count.
    """

    def __init__(self) -> None:
        self._counts: Multiset[Counter] = Multiset()

    def add(self, counter: Counter, count: int = 1) -> None:
        """Count up."""
        self._counts[counter] += count

    def flush(self) -> None:
        """Move the counts into their metrics."""
        for counter, count in self._counts.items():
            counter.inc(count)
        self._counts.clear()


# --- queries (HTTP workers) ---
QUERIES = Counter("revocast_queries_total", "OCSP queries by outcome.", ["outcome"])
UNAUTHORIZED = Counter("revocast_unauthorized_total", "Queries answered unauthorized, by reason.", ["reason"])
ANSWERS = Counter("revocast_answers_total", "Successful answers by the source they came from.", ["source"])
TRY_LATER = Counter("revocast_try_later_total", "Queries answered tryLater, by reason.", ["reason"])
JOURNAL_LAG = Gauge(
    "revocast_journal_lag_seconds",
    "Seconds since a worker last saw the journal to its end; the worst worker's.",
    multiprocess_mode="livemax",
)
MISSES_IN_FLIGHT = Gauge(
    "revocast_misses_in_flight", "CertIDs that the workers are reading from Redis.", multiprocess_mode="livesum"
)
TABLE_ENTRIES = Gauge(
    "revocast_table_entries", "Answers in the workers' tables, outdated ones among them.", multiprocess_mode="livesum"
)
TABLE_BYTES = Gauge("revocast_table_bytes", "Memory of the workers' tables in use.", multiprocess_mode="livesum")
LIVE_QUESTIONS = Counter(
    "revocast_live_questions_total", "Questions to the presigner: asked, timeout, refused at once.", ["event"]
)

# --- sources of statuses (follow) ---
SOURCE_AS_OF = Gauge(
    "revocast_source_as_of_seconds",
    "POSIX second as of which a CA's source is known.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SOURCE_ERRORS = Counter("revocast_source_errors_total", "Readings of a source that failed, by CA.", ["ca"])
SOURCE_REJECTED = Gauge(
    "revocast_source_rejected_rows",
    "Rows of a CA's source that could not be understood at its last reading.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SOURCE_HELD_BACK = Gauge(
    "revocast_source_held_back",
    "1 while a CA's source lists so few certificates that it is not believed, else 0.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SOURCE_DIFFERENCES = Gauge(
    "revocast_source_differences",
    "Serials of which a CA's source and Redis, answers or CRLs said different things at the last comparison.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SOURCE_COMPARED_AT = Gauge(
    "revocast_source_compared_at_seconds",
    "POSIX second at which a CA's source was last compared.",
    ["ca"],
    multiprocess_mode="mostrecent",
)

# --- signers (presign) ---
SIGNER_NOT_AFTER = Gauge(
    "revocast_signer_not_after_seconds",
    "POSIX second at which a CA's signer certificate ends.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SIGNER_REFUSED = Gauge(
    "revocast_signer_refused",
    "1 while a CA's configured signer cannot be used, so that an older one signs or none, else 0.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SIGNATURES = Counter("revocast_signatures_total", "Signatures made, by CA and by why.", ["ca", "why"])
BATCH_SECONDS = Histogram(
    "revocast_sign_batch_seconds",
    "Time from claiming a bucket to its answers being stored.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
NOT_SIGNED = Counter(
    "revocast_not_signed_total",
    "Answers that could not be signed, by CA and reason: source_too_old, signer_ended.",
    ["ca", "reason"],
)
DUE_BUCKETS = Gauge(
    "revocast_due_buckets",
    "Buckets that wait to be signed, by urgency: urgent, routine.",
    ["urgency"],
    multiprocess_mode="mostrecent",
)
SOONEST_NEXT_UPDATE = Gauge(
    "revocast_soonest_next_update_seconds",
    "POSIX second at which the first of a CA's stored answers runs out.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SIGNATURES_NEEDED = Gauge(
    "revocast_signatures_needed_per_second",
    "Signatures a second that a CA's certificates and policy need, routine work alone.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SIGNATURES_POSSIBLE = Gauge(
    "revocast_signatures_possible_per_second",
    "Signatures a second that this presigner makes while it has work.",
    multiprocess_mode="mostrecent",
)
PRESIGN_UTILISATION = Gauge(
    "revocast_presign_utilisation",
    "Needed by possible signatures: above 1 answers are replaced ever later.",
    multiprocess_mode="mostrecent",
)
PRESIGN_WAIT = Gauge(
    "revocast_presign_wait_seconds",
    "How long signing what is due now takes.",
    multiprocess_mode="mostrecent",
)
PRESIGN_MARGIN = Gauge(
    "revocast_presign_margin_seconds",
    "The least time that an answer is predicted to have left when it is replaced; not positive: it runs out.",
    multiprocess_mode="mostrecent",
)
PRESIGNER_BEHIND = Gauge(
    "revocast_presigner_behind",
    "1 while the presigner cannot keep up, else 0.",
    multiprocess_mode="mostrecent",
)
CLOCK_AGREES = Gauge(
    "revocast_clock_agrees",
    "1 while the presigner's clock agrees with Redis's, else 0.",
    multiprocess_mode="mostrecent",
)
LIVE_QUEUE = Gauge(
    "revocast_live_queue", "Questions of the workers that wait to be signed.", multiprocess_mode="livesum"
)
LIVE_REPLIES = Counter(
    "revocast_live_replies_total",
    "Workers' questions by how they ended: answer, try_later, unauthorized, too_old, malformed.",
    ["outcome"],
)

# --- CRLs (publish); kind: full or delta, of a sharded CA all together ---
CRL_THIS_UPDATE = Gauge(
    "revocast_crl_this_update_seconds",
    "thisUpdate, POSIX seconds, of a CA's CRLs that are published; the oldest shard's.",
    ["ca", "kind"],
    multiprocess_mode="mostrecent",
)
CRL_NEXT_UPDATE = Gauge(
    "revocast_crl_next_update_seconds",
    "nextUpdate, POSIX seconds, of a CA's CRLs that are published; the soonest shard's.",
    ["ca", "kind"],
    multiprocess_mode="mostrecent",
)
CRL_BYTES = Gauge(
    "revocast_crl_bytes", "Octets of a CA's CRLs that are published.", ["ca", "kind"], multiprocess_mode="mostrecent"
)
CRL_LARGE = Gauge(
    "revocast_crl_large",
    "A CA's CRLs that are published and have more octets than crl.large_bytes.",
    ["ca", "kind"],
    multiprocess_mode="mostrecent",
)
CRL_ENTRIES = Gauge(
    "revocast_crl_entries", "Entries of a CA's CRLs that are published.", ["ca", "kind"], multiprocess_mode="mostrecent"
)
CRL_BUILD_SECONDS = Gauge(
    "revocast_crl_build_seconds",
    "How long the last issue of a CA's CRLs took, from Redis to published.",
    ["ca", "kind"],
    multiprocess_mode="mostrecent",
)
CRLS_ISSUED = Counter("revocast_crls_issued_total", "CRLs that were issued, and what for.", ["ca", "kind", "why"])
CRL_OVERDUE = Gauge(
    "revocast_crl_overdue_seconds",
    "How long a CRL has been due that could not be issued; 0: none is.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
CRL_FAILURES = Counter(
    "revocast_crl_failures_total",
    "CRLs that could not be issued, by what stood in the way: check, signer, conflict, disk, config, source, store, other.",
    ["ca", "reason"],
)
CRL_FILES_DAMAGED = Counter(
    "revocast_crl_files_damaged_total",
    "Files of published CRLs that were found damaged or lost on this machine's disk, and set aside.",
    ["ca"],
)
CRLS_MIRRORED = Counter("revocast_crls_mirrored_total", "CRLs of a CA's own that were taken over.", ["ca", "kind"])
CRL_MIRROR_FAILURES = Counter(
    "revocast_crl_mirror_failures_total",
    "Looks for a CA's own CRL that failed, by what stood in the way: fetch, check, conflict, disk.",
    ["ca", "reason"],
)
CRL_CHECKS_FAILED = Counter(
    "revocast_crl_checks_failed_total", "Checks before publication that a CRL failed, by the check.", ["ca", "check"]
)

# --- connections (HTTP workers) ---
HTTP_CONNECTIONS = Gauge("revocast_http_connections", "Client connections open now.", multiprocess_mode="livesum")
HTTP_CONNECTIONS_REFUSED = Counter(
    "revocast_http_connections_refused_total", "Connections closed at once, by the limit reached.", ["limit"]
)
HTTP_RESPONSES = Counter("revocast_http_responses_total", "HTTP responses by status.", ["status"])
HTTP_TIMEOUTS = Counter(
    "revocast_http_timeouts_total",
    "Connections ended because nothing came, by what was waited for: request, idle, write, reply.",
    ["what"],
)

# --- the one write path (responder.revocation) ---
STATUS_CHANGES = Counter("revocast_status_changes_total", "Committed changes of statuses, by kind.", ["kind"])
TRANSITIONS_REFUSED = Counter(
    "revocast_transitions_refused_total",
    "Changes that a source asked for and that were refused, by reason.",
    ["reason"],
)

# --- the audit log ---
AUDIT_FAILURES = Counter(
    "revocast_audit_failures_total",
    "What went wrong with the audit log: unwritable, damaged, anchor_mismatch.",
    ["what"],
)
AUDIT_ANCHORED = Gauge(
    "revocast_audit_anchored_seconds",
    "POSIX second at which a role last saw the audit logs' last lines anchored in Redis.",
    ["role"],
    multiprocess_mode="mostrecent",
)
