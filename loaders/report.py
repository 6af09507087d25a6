"""What a pass did, in a log record and in lines for an operator. Called by loaders/follow.py and loaders/cli.py."""

from __future__ import annotations

from collections.abc import Iterator

from loaders.base import LoaderOptions
from loaders.reading import PassReport
from responder import audit
from responder.clock import format_utc
from responder.log import get_logger
from responder.revocation import Refused

log = get_logger(__name__)

LOGGED_ERRORS = 10  # rejected rows of one pass that are logged one by one
# kind of change → how an operator says it
_CHANGED = {
    "new": "new",
    "revoked": "revoked",
    "released": "released from hold",
    "changed": "changed",
    "purged": "removed",
}
_REFUSED = {
    Refused.PERMANENT: "the source says good or hold, but the certificate is revoked for good: it stays revoked",
    Refused.HOLD_NOT_RELEASED: "the source says good, but has not released the hold: it stays on hold",
    Refused.OPERATOR: "revoked by the operator: the source does not undo that",
    Refused.IN_EFFECT: "the source puts a revocation off that is in effect: it stays in effect",
    Refused.NOT_A_HOLD: "not on hold",
}


def log_report(report: PassReport, before: PassReport | None) -> None:
    """Log what a pass did; one that changed nothing and found nothing new amiss is debug."""
    done = report.done
    fields = {
        "ca": report.ca,
        "rows": report.listed,
        "changes": done.changes,
        "refused": {reason.value: count for reason, count in done.refused.items()},
        "rejected": report.rejected,
        "vanished": done.vanished,
        "whole": report.whole,
        "settled": report.settled,
    }
    is_new = before is None or (before.rejected, before.done.refused) != (report.rejected, report.done.refused)
    if report.skipped:
        log.debug("source_unchanged", **fields)
        return
    (log.info if done.changed or is_new else log.debug)("source_loaded", **fields)
    if is_new and report.rejected:
        log.error("rows_rejected", ca=report.ca, rejected=report.rejected)
        for error in report.errors[:LOGGED_ERRORS]:
            log.error("row_rejected", ca=report.ca, error=str(error))


def record_import(report: PassReport, loader: str, options: LoaderOptions) -> None:
    """Write a pass, also one that changed nothing or was cut short, into the audit log."""
    done = report.done
    audit.record(
        "import",
        ca=report.ca,
        loader=loader,
        source=str(getattr(options, "path", "")),
        as_of=format_utc(report.as_of),
        rows=report.listed,
        changes=done.changes,
        refused={reason.value: count for reason, count in done.refused.items()},
        rejected=report.rejected,
        expired=done.expired,
        vanished=done.vanished,
        whole=report.whole,
        shrunk_from=report.shrunk_from,
        settled=report.settled,
        unchanged=report.skipped,
    )


def report_lines(report: PassReport, *, dry_run: bool) -> Iterator[str]:
    """Yield what a pass did, a line each, for an operator."""
    done = report.done
    counts = [f"{count} {_CHANGED.get(kind, kind)}" for kind, count in done.changes.items() if count]
    what = ", ".join(counts) or "nothing changed"
    prefix = "would be: " if dry_run else ""
    yield f"{report.ca}: {report.listed} certificates listed; {prefix}{what}"
    if done.expired:
        yield f"{report.ca}: {done.expired} expired longer ago than the retention, and are not kept"
    if done.kept_revoked:
        yield f"{report.ca}: {done.kept_revoked} revoked ones are no longer listed: they stay revoked until they expire"
    if done.vanished:
        yield f"{report.ca}: {done.vanished} good ones are no longer listed: kept for now"
    if done.releases_waiting:
        yield f"{report.ca}: {done.releases_waiting} holds end, once a second reading says so too"
    if report.cut:
        yield f"{report.ca}: ALARM: the file breaks off: nothing was removed, and answers will run out"
    elif not report.whole:
        yield f"{report.ca}: the file breaks off in its last line, or was being written: nothing was removed"
    if report.shrunk_from is not None:
        yield (
            f"{report.ca}: ALARM: {report.counted} certificates listed, {report.shrunk_from} before: nothing is removed, and "
            "answers will run out; see max_shrink"
        )
    for reason, count in done.refused.items():
        serials = [serial.hex() for serial, why in done.refusals if why is reason]
        named = ", ".join(serials[:5]) + (", …" if count > 5 else "")
        yield f"{report.ca}: ALARM: {count} refused: {_REFUSED[reason]}: {named}"
    for error in report.errors:
        yield f"rejected: {error}"
    if report.rejected > len(report.errors):
        yield f"rejected: and {report.rejected - len(report.errors)} more"
    if report.settled and not dry_run:
        yield f"{report.ca}: known as of {format_utc(report.as_of)}"
