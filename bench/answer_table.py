"""Memory of a worker's answer table: octets a certificate, at a million P-256 answers.

    .venv/bin/python -m bench.answer_table [--answers N] [--json FILE]

Serials of 17 octets, packed answers of 72, a set of terms for each bucket of 128. Counted by the table itself, and by the
kernel (resident set of this process, before and after). Target: 160.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

from bench.serve.machine import describe_commit, describe_machine
from fastpath.answer_table import AnswerTable, AnswerTerms
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, pack_answer
from responder.http.caching import expires_line, last_modified_line

TARGET = 160
BUCKET = 128
THIS_UPDATE, VALIDITY = 1_795_000_000, 4 * 86_400


def resident() -> int:
    """Return the octets of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Fill a table, and print what that took."""
    parser = argparse.ArgumentParser(prog="python -m bench.answer_table")
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chance = random.Random(1)
    packed = pack_answer(0, 0, 0, -1, False, chance.randbytes(71))
    template = ResponseTemplate(bytes(20), b"\x30\x00", [])
    table = AnswerTable(180 * options.answers, ["ca"])
    before = resident()
    for number in range(options.answers):
        if number % BUCKET == 0:
            this_update = THIS_UPDATE + number
            header = AnswerHeader(this_update, this_update + VALIDITY, this_update, "0123456789abcdef")
            lines = last_modified_line(this_update), expires_line(this_update + VALIDITY)
            terms = AnswerTerms(this_update, this_update + VALIDITY, this_update, 43_200, *lines, template, header)
        serial = b"\0\x80" + chance.randbytes(15)
        table.put("ca", "sha1", serial, chance.getrandbits(32), terms, packed, chance.randbytes(32))
    assert len(table) == options.answers
    figures = [
        ("answer table, octets a certificate, by its own count", table.used_bytes / options.answers),
        ("answer table, octets a certificate, resident, terms and all", (resident() - before) / options.answers),
    ]
    for what, value in figures:
        print(f"{what}: {value:.1f} (at most {TARGET})")
    if options.json:
        rows = [{"what": what, "value": round(value, 1), "unit": "B", "at_most": TARGET} for what, value in figures]
        result = {"machine": describe_machine(), **describe_commit(), "answers": options.answers, "figures": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
