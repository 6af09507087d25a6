"""How many signatures each hour takes, over ten days of a million certificates, with a clock that is set by hand.

    .venv/bin/python -m bench.load_over_time [--bits 13] [--hours 240] [--svg docs/load-over-time.svg] [--json FILE]

Everything is the real thing but the size of buckets: a real Redis, the presigner, its keys, claims and rules; each bucket holds one
certificate, which stands for the 122 that a bucket of a million has. All is loaded in one instant. The sources: one that is read
all the time, one read each hour, one each day at once; and an outage of the presigner for half of the validity, after which the
key is as slow as makes the backlog last for hours.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from responder.model import serial_to_octets
from responder.store.layout import NEVER_DUE, bucket_number, serial_hash
from tests.redis_fixture import start_redis
from tests.signing_room import GOOD, Room

CERTIFICATES = 1_000_000
HOUR_S = 3_600
VALIDITY_S = 4 * 24 * HOUR_S
STEP_S = 600
WIDTH, LEFT, CHART, GAP, TOP = 860, 60, 110, 44, 34


@dataclass(frozen=True, slots=True)
class Case:
    """One source, or one misfortune. ``down``: hours in which no presigner runs; ``rate``: the key's afterwards, each second."""

    title: str
    every_s: int = 1  # between readings of the source
    down: range = range(0)
    rate: float | None = None


CASES = {
    "live": Case("source read all the time"),
    "hourly": Case("source read each hour", HOUR_S),
    "daily": Case("source read each day", 24 * HOUR_S),
    "outage": Case("presigner away for 48 hours, then 40 signatures a second", down=range(100, 148), rate=40),
}


@dataclass(slots=True)
class Load:
    """What one case came to. ``counts``: signatures of each hour; ``left_s``: until the first answer ran out, at each hour's end."""

    counts: list[int] = field(default_factory=list)
    left_s: list[int] = field(default_factory=list)
    overdue: list[int] = field(default_factory=list)

    def peak_to_mean(self, first: int, bins: int = 1) -> float:
        """Return the busiest bin's signatures over the mean, from hour ``first`` on; a bin is so many hours."""
        tail = self.counts[first:]
        sums = [sum(tail[at : at + bins]) for at in range(0, len(tail) - bins + 1, bins)]
        return max(sums) * len(sums) / sum(sums)


def one_in_each(bits: int) -> list[int]:
    """Return a serial for each bucket."""
    found: dict[int, int] = {}
    serial = 1
    while len(found) < 1 << bits:
        found.setdefault(bucket_number(serial_hash(serial_to_octets(serial)), bits), serial)
        serial += 1
    return list(found.values())


def run(
    room: Room,
    case: Case,
    hours: int,
    bits: int,
    *,
    step_s: int = STEP_S,
    look: Callable[[int], object] = lambda _: None,
) -> Load:
    """Run a case; ``look`` is called with the number of each hour that is over."""
    clock, began = room.clock, int(room.clock.now())
    each = CERTIFICATES / (1 << bits)

    def read_source() -> None:
        room.set_as_of(began + (int(clock.now()) - began) // case.every_s * case.every_s)

    room.load(dict.fromkeys(one_in_each(bits), GOOD), bits=bits)
    presigner = room.presigner()
    load = Load()
    for hour in range(hours):
        made, end = 0, began + (hour + 1) * HOUR_S
        while clock.now() < end:
            read_source()
            signed = 0
            rate = case.rate if hour >= case.down.start else None
            if hour not in case.down:
                signed = presigner.run_until_idle() if rate is None else presigner.run_once()
            made += signed
            busy_s = signed * each / rate if rate is not None else 0.0
            clock.advance(busy_s or min(step_s, end - clock.now()))
        load.counts.append(round(made * each))
        soonest = room.store.soonest_next_updates([room.issuer.id]).get(room.issuer.id, NEVER_DUE)
        load.left_s.append(int(soonest - clock.now()))
        load.overdue.append(room.store.due_counts(clock.now())[0])
        look(hour)
    return load


def draw(loads: dict[str, Load]) -> str:
    """Return the SVG: signatures of each hour, a chart for each case, the mean after the first two days as a line."""
    parts: list[str] = []
    hours = max(len(load.counts) for load in loads.values())
    step = (WIDTH - LEFT - 20) / hours
    for row, (name, load) in enumerate(loads.items()):
        floor = TOP + row * (CHART + GAP) + CHART
        most = max(load.counts[1:])
        scale = CHART / most
        mean = sum(load.counts[48:]) / len(load.counts[48:])
        bars = "".join(
            f"M{LEFT + hour * step:.1f} {floor}v{-min(count, most) * scale:.1f}h{step:.2f}V{floor}z"
            for hour, count in enumerate(load.counts)
        )
        parts.append(f'<path d="{bars}" fill="#1f5fa8"/>')
        level = floor - mean * scale
        parts.append(f'<path d="M{LEFT} {level:.1f}H{WIDTH - 20}" stroke="#c77f2b" stroke-dasharray="4 3"/>')
        parts.append(_text(LEFT, floor - CHART - 8, CASES[name].title, "start"))
        parts.append(_text(LEFT - 6, floor - CHART + 8, f"{most:,}", "end"))
        parts.append(_text(LEFT - 6, floor, "0", "end"))
        parts += [_text(LEFT + day * 24 * step, floor + 14, f"day {day}", "start") for day in range(hours // 24)]
    height = TOP + len(loads) * (CHART + GAP) + 14
    words = (
        f"signatures in each hour; dashed: their mean from hour 48 on. The first hour, {CERTIFICATES:,}, is cut off."
    )
    parts.append(_text(LEFT, height - 8, words, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11">\n<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#202124">{text}</text>'


def main() -> None:
    """Run every case, print its figures and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=13, help="2 to this are the buckets; 13: a million certificates")
    parser.add_argument("--hours", type=int, default=240)
    parser.add_argument("--cases", default=",".join(CASES), help="which, with commas between")
    parser.add_argument("--svg", type=Path, help="draw the plot here")
    parser.add_argument("--json", type=Path, help="also write the hours here")
    options = parser.parse_args()
    loads: dict[str, Load] = {}
    for name in options.cases.split(","):
        server = start_redis()
        try:
            with tempfile.TemporaryDirectory() as directory:
                room = Room(server, Path(directory), validity=f"{VALIDITY_S}s", ca_options='profile = "webpki"')
                loads[name] = load = run(room, CASES[name], options.hours, options.bits)
                room.close()
        finally:
            server.stop()
        each_day = sum(load.counts[48:]) / (len(load.counts) - 48) * 24 / CERTIFICATES
        print(
            f"{name:>7}: peak/mean of an hour {load.peak_to_mean(48):.2f} from hour 48 on, busiest {max(load.counts[1:]):,}, "
            f"{each_day:.3f} signatures a certificate and day, least time left {min(load.left_s) / HOUR_S:.1f} h of "
            f"{VALIDITY_S / HOUR_S:.0f}",
            flush=True,
        )
    if options.svg:
        options.svg.write_text(draw(loads))
    if options.json:
        options.json.write_text(json.dumps({name: load.counts for name, load in loads.items()}) + "\n")


if __name__ == "__main__":
    main()
