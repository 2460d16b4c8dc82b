"""Writes random triggers with the firings that APScheduler 3.11 computes for them, one JSON object a line, compressed.

    firings.py SEED TRIGGERS FIRINGS FILE

Each line has t (the trigger as platform/when writes it), k (its kind), n (the instant from which it was asked), f (the first firing) and d (the distances to
those that follow), in seconds. end is true when the trigger had no further firing.
"""
import gzip
import json
import random
import signal
import sys
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.combining import AndTrigger, OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

# Changes at 01:00, 02:00, 02:45 and midnight, by an hour and by half of one, on both halves of the globe; Casablanca's year has four of them.
ZONES = ["Europe/Berlin", "Europe/London", "America/New_York", "America/Havana", "America/Santiago", "Asia/Beirut", "Australia/Lord_Howe",
         "Pacific/Chatham", "Africa/Casablanca", "Atlantic/Azores"]
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
LIMITS = {"month": (1, 12), "day": (1, 31), "week": (1, 53), "hour": (0, 23), "minute": (0, 59), "second": (0, 59)}
ORDER = ["year", "month", "day", "week", "day_of_week", "hour", "minute", "second"]
US = timedelta(microseconds=1)


def changes(zone):
    """The instants between 2015 and 2037 at which the zone's offset changes, to the minute."""
    found, t, end, step = [], datetime(2015, 1, 1, tzinfo=timezone.utc), datetime(2037, 1, 1, tzinfo=timezone.utc), timedelta(days=7)
    while t < end:
        if t.astimezone(zone).utcoffset() != (t + step).astimezone(zone).utcoffset():
            low, high = t, t + step
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset() else (low, middle)
            found.append(high)
        t += step
    return found


def number(r, name):
    low, high = LIMITS[name]
    if name == "hour" and r.random() < 0.6:  # where clocks change
        return r.choice([0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 23])
    if name in ("minute", "second") and r.random() < 0.5:
        return r.choice([0, 0, 15, 30, 30, 45])
    return r.randint(low, high)


def element(r, name):
    low, high = LIMITS[name]
    a, b = sorted((number(r, name), number(r, name)))
    kind = r.random()
    if kind < 0.12:
        return f"*/{r.randint(1, max(1, (high - low) // 2))}"
    if kind < 0.30:
        return f"{a}-{b}"
    if kind < 0.40 and b > a:
        return f"{a}-{b}/{r.randint(1, b - a)}"
    if kind < 0.46 and a < high:
        return f"{a}/{r.randint(1, high - a)}"
    if name == "month" and kind < 0.75:
        return MONTHS[a - 1] if kind < 0.6 else f"{MONTHS[a - 1]}-{MONTHS[b - 1]}"
    if name == "day" and kind < 0.85:
        if kind < 0.58:
            return "last"
        return f"{r.choice(['1st', '2nd', '3rd', '4th', '5th', 'last', 'last'])} {r.choice(WEEKDAYS)}"
    return str(a)


def weekday(r):
    a, b = sorted((r.randrange(7), r.randrange(7)))
    return r.choice([WEEKDAYS[a], f"{WEEKDAYS[a]}-{WEEKDAYS[b]}", str(a), f"{a}-{b}", f"*/{r.randint(1, 3)}", "mon-fri", "sun"])


def field(r, name):
    if r.random() < 0.15:
        return "*"
    count = r.choice([1, 1, 1, 1, 2, 3])
    return ",".join(weekday(r) if name == "day_of_week" else element(r, name) for _ in range(count))


def cron_fields(r, year):
    fields = {}
    chance = {"year": 0.05, "month": 0.25, "day": 0.35, "week": 0.08, "day_of_week": 0.25, "hour": 0.7, "minute": 0.55, "second": 0.2}
    for name in ORDER:
        if r.random() < chance[name]:
            fields[name] = r.choice([f"{year}-{year + 6}", f"*/{r.randint(1, 4)}", "*"]) if name == "year" else field(r, name)
    return fields or {"month": "*"}


def stamp(t):
    return t.isoformat()


def cron(r, zone, now, starts):
    fields = cron_fields(r, now.year)
    text = "cron " + " ".join(f"{name}='{fields[name]}'" if " " in fields[name] else f"{name}={fields[name]}" for name in ORDER if name in fields)
    # A last instant keeps APScheduler from searching up to the year 9999. It is at noon, far from every change.
    end = datetime(now.year + r.choice([3, 12, 12]), r.randint(1, 12), 15, 12, 30, 0, tzinfo=zone)
    # Within OrTrigger a start date is forgotten after the first firing (docs/triggers.md), so members have none.
    start = now + timedelta(seconds=r.randint(0, 90 * 86400)) if starts and r.random() < 0.15 else None
    if start:
        text += f" from {stamp(start)}"
    text += f" until {stamp(end)}"
    return CronTrigger(**fields, timezone=zone, start_date=start, end_date=end), text


def interval(r, zone, now):
    parts = {name: r.choice([0, 0, r.randint(1, most)]) for name, most in [("weeks", 3), ("days", 10), ("hours", 40), ("minutes", 200), ("seconds", 4000)]}
    if not any(parts.values()):
        parts["minutes"] = 90
    start = now + timedelta(seconds=r.randint(-400 * 86400, 30 * 86400))
    end = now + timedelta(days=r.randint(40, 900)) if r.random() < 0.3 else None
    text = "every " + "".join(f"{n}{name[0]}" for name, n in parts.items() if n) + f" from {stamp(start)}" + (f" until {stamp(end)}" if end else "")
    return IntervalTrigger(**parts, start_date=start, end_date=end, timezone=zone), text


def calendar(r, zone, now):
    parts = {name: r.choice([0, 0, r.randint(1, most)]) for name, most in [("years", 2), ("months", 14), ("weeks", 3), ("days", 20)]}
    if not any(parts.values()):
        parts["days"] = 1
    clock = {"hour": number(r, "hour"), "minute": number(r, "minute"), "second": r.choice([0, 0, 0, 7])}
    start = now.date()
    end = start + timedelta(days=r.randint(100, 9000)) if r.random() < 0.3 else None
    text = "calendar " + " ".join(f"{n} {name}" for name, n in parts.items() if n) + " at %02d:%02d:%02d" % tuple(clock.values()) + f" from {start}"
    return CalendarIntervalTrigger(**parts, **clock, start_date=start, end_date=end, timezone=zone), text + (f" until {end}" if end else "")


class Hung(Exception):
    pass


def hung(*_):
    raise Hung


def firings(found, trigger, kind, now, count):
    last = None
    while len(found) < count:
        # Just behind the last firing, by the clock of the world: adding to a time in a zone forgets which of two equal times it was.
        clock = (last.astimezone(timezone.utc) + US).astimezone(now.tzinfo) if last else now
        # AndTrigger never returns when it is given the firing before (docs/triggers.md), so it is asked as if for the first time.
        following = trigger.get_next_fire_time(None if kind == "all" else last, clock)
        if following is None:
            return True
        following = following.astimezone(timezone.utc)
        found.append(int(following.timestamp()))
        last = following.astimezone(now.tzinfo)
    return False


def main():
    seed, triggers, count, name = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    r = random.Random(seed)
    signal.signal(signal.SIGVTALRM, hung)
    zones = [ZoneInfo(z) for z in ZONES]
    switches = {z: changes(z) for z in zones}
    with gzip.GzipFile(name, "wb", 9, mtime=0) as out:
        for i in range(triggers):
            zone = zones[i % len(zones)]
            if r.random() < 0.7:  # shortly before clocks change
                now = r.choice(switches[zone]) - timedelta(seconds=r.choice([3600, 86400, 86400, 40 * 86400]) * r.random())
            else:
                now = datetime(2015, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=r.randint(0, 20 * 365 * 86400))
            now = now.replace(microsecond=0).astimezone(zone)
            kind = r.choices(["cron", "every", "calendar", "any", "all", "at"], [70, 10, 10, 6, 3, 1])[0]
            rest = f" in {zone.key}"
            if kind == "cron":
                trigger, text = cron(r, zone, now, True)
            elif kind == "every":
                trigger, text = interval(r, zone, now)
            elif kind == "calendar":
                now = now.replace(hour=0, minute=0, second=0)  # it gives its first date however long that is past
                trigger, text = calendar(r, zone, now)
            elif kind == "at":
                then = now + timedelta(seconds=r.randint(1, 400 * 86400))
                trigger, text = DateTrigger(then, zone), f"at {stamp(then)}"
            else:
                members = []
                while len(members) < 2 + (i % 3 == 0):
                    member = cron(r, zone, now, False)
                    if kind == "all" or member[0].get_next_fire_time(None, now):  # platform/when refuses members that never fire
                        members.append(member)
                trigger = (OrTrigger if kind == "any" else AndTrigger)([m[0] for m in members])
                text, rest = kind + "(" + "; ".join(m[1] + rest for m in members) + ")", ""
            found, ended, stuck = [], False, False
            signal.setitimer(signal.ITIMER_VIRTUAL, 4)
            try:
                ended = firings(found, trigger, kind, now, count)
            except Hung:
                stuck = True
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            line = {"t": text + rest, "k": kind, "n": int(now.timestamp()), "f": found[0] if found else 0,
                    "d": [b - a for a, b in zip(found, found[1:])]}
            if ended:
                line["end"] = True
            if stuck:
                line["hung"] = True
            out.write((json.dumps(line, separators=(",", ":")) + "\n").encode())


main()
