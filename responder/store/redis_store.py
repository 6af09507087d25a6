"""The store as the writing roles and the commands use it: synchronous, one connection, text and bytes of the layout.

Its parts: status_store (statuses and commits), answer_store (due buckets, answers), live_store (live questions), crl_store
(CRLs), store_base.
What each script does stands in scripts.py, what a commit is in link.py, every name in layout.py. Transitions are
decided in revocation.py, never here. A Store may be shared by threads (one command sequence at a time); a thread that
blocks in ``await_live`` wants one of its own. Every failure is StoreUnavailable: nothing is known of what was not
answered. Only revocation.py and full_pass.py may call the methods that change statuses.
"""

from __future__ import annotations

from responder.store.acl import acl_lines
from responder.store.answer_store import AnswerStore
from responder.store.crl_store import CRLStore
from responder.store.edge_store import EdgeStore, JournalReading, Reading
from responder.store.live_store import LiveStore, Sight, Watch
from responder.store.values import (
    AnswerBucket,
    BucketMap,
    CAInfo,
    Change,
    Claim,
    Commit,
    Committed,
    Finding,
    JournalEntry,
    Located,
    NewBucket,
    SignedAnswer,
    SignerRecord,
    StatusBucket,
)

__all__ = [
    "AnswerBucket",
    "BucketMap",
    "CAInfo",
    "Change",
    "Claim",
    "Commit",
    "Committed",
    "EdgeStore",
    "Finding",
    "JournalEntry",
    "JournalReading",
    "Located",
    "NewBucket",
    "Reading",
    "Sight",
    "SignedAnswer",
    "SignerRecord",
    "StatusBucket",
    "Store",
    "Watch",
    "acl_lines",
]


class Store(LiveStore, AnswerStore, CRLStore):
    """One role's sight of Redis."""
