#!/usr/bin/env python3
"""Verifies an export of Levee's audit trail. Written from docs/audit.md alone; needs Python 3.9 or later and nothing else."""

import argparse
import csv
import hashlib
import json
import sys


def f(x):
    raw = x if isinstance(x, bytes) else str(x).encode("utf-8")
    return str(len(raw)).encode("ascii") + b":" + raw


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        if path.endswith(".csv"):
            csv.field_size_limit(1 << 20)
            yield from csv.DictReader(file)
        else:
            for line in file:
                yield json.loads(line)


def verify(path, pins):
    head = seq = None
    entries = 0
    for n, row in enumerate(rows(path), 1):
        place = int(row["seq"])
        if head is None:
            if row.get("id"):
                return f"line {n}: the first line must say where the chain begins"
            if place == 0 and row["head"] != "0" * 64:
                return f"line {n}: a whole chain begins with zeros"
            seq, head = place, bytes.fromhex(row["head"])
        else:
            if place != seq + 1:
                return f"line {n}: place {place} follows place {seq}"
            text = b"".join(f(row.get(k) or "") for k in ("id", "at_us", "times", "actor", "action", "subject", "before", "after", "address", "request_id"))
            digest = hashlib.sha256(f("levee trail entry 1") + text).digest()
            head = hashlib.sha256(f("levee trail link 1") + f(head) + f(place) + f(digest) + f(row["mark"])).digest()
            if head.hex() != row["head"]:
                return f"line {n}: place {place} does not lead to the head that the line names"
            seq, entries = place, entries + 1
        if place in pins and pins.pop(place) != head.hex():
            return f"line {n}: the head at place {place} is not the one that you noted"
    if head is None:
        return "the file is empty"
    if pins:
        return f"the file ends at place {seq} and has not the place {min(pins)} whose head you noted"
    print(f"{entries} entries verify; the head is {seq}:{head.hex()}")
    return None


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("file", help="the export: .ndjson or .csv")
    p.add_argument("--head", action="append", default=[], metavar="PLACE:HEX", help="a head that you noted; may be given more than once")
    args = p.parse_args()
    pins = {}
    for text in args.head:
        place, _, value = text.partition(":")
        if not place.isdigit() or len(value) != 64:
            p.error("--head is a place, a colon and 64 hexadecimal digits")
        pins[int(place)] = value.lower()
    try:
        wrong = verify(args.file, pins)
    except (ValueError, KeyError, TypeError) as e:
        wrong = f"the file cannot be read: {e!r}"
    if wrong:
        print(wrong)
        sys.exit(1)


if __name__ == "__main__":
    main()
