"""Every metric there is, in one list. Label values come from closed sets, never from clients.

The roles are several processes: the supervisor sets PROMETHEUS_MULTIPROC_DIR before it starts them, each writes its
own files there, and the admin role adds them up for /metrics. docs/metrics.md names every one (a test compares).
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# --- queries (HTTP workers) ---
QUERIES = Counter("revocast_queries_total", "OCSP queries by outcome.", ["outcome"])
UNAUTHORIZED = Counter("revocast_unauthorized_total", "Queries answered unauthorized, by reason.", ["reason"])
ANSWERS = Counter("revocast_answers_total", "Successful answers by the source they came from.", ["source"])

# --- sources of statuses (follow) ---
SOURCE_AS_OF = Gauge(
    "revocast_source_as_of_seconds",
    "POSIX second as of which a CA's source is known.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SOURCE_ERRORS = Counter("revocast_source_errors_total", "Readings of a source that failed, by CA.", ["ca"])

# --- signers (presign) ---
SIGNER_NOT_AFTER = Gauge(
    "revocast_signer_not_after_seconds",
    "POSIX second at which a CA's signer certificate ends.",
    ["ca"],
    multiprocess_mode="mostrecent",
)
SIGNATURES = Counter("revocast_signatures_total", "Signatures made, by CA and by why.", ["ca", "why"])
BATCH_SECONDS = Histogram(
    "revocast_sign_batch_seconds",
    "Time from claiming a bucket to its answers being stored.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

# --- connections (HTTP workers) ---
HTTP_CONNECTIONS = Gauge(
    "revocast_http_connections", "Client connections open now.", multiprocess_mode="livesum"
)
HTTP_CONNECTIONS_REFUSED = Counter(
    "revocast_http_connections_refused_total", "Connections closed at once, by the limit reached.", ["limit"]
)
HTTP_RESPONSES = Counter("revocast_http_responses_total", "HTTP responses by status.", ["status"])
HTTP_TIMEOUTS = Counter(
    "revocast_http_timeouts_total",
    "Connections ended because nothing came, by what was waited for: request, idle, write, reply.",
    ["what"],
)
