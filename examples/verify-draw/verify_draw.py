"""Runs a published draw (levee-draw-1) again from its three documents and says whether it is the same.

    python3 verify_draw.py --dir DIR [--sale sal_...] [--noted-hash HEX]
    python3 verify_draw.py --server URL --sale sal_... [--noted-hash HEX]

DIR holds draw.json, entries.txt and results.txt, each as the server sent it. --noted-hash is the seed hash that was
noted while entries were open. With --dir, --sale says which sale the draw must be of. Check numbers are those of
section 6 of the format's description; check 0 is that a document can be read and is of the right sale.

Exit code 0: all checks hold. 1: a check fails; it is named with its document and line. 2: wrong usage.
"""
import argparse
import hashlib
import hmac
import http.client
import io
import itertools
import json
import pathlib
import re
import sys
import urllib.request

ALGORITHM = "levee-draw-1"
ENTRY_LIST_LIMIT = 64 * 1024 * 1024
RESULTS_LIMIT = 2 * ENTRY_LIST_LIMIT  # A line of the results is never twice as long as its entry's line.
DRAW_LIMIT = 1024 * 1024
ID_LENGTH = 30
TICKET_LENGTH = 32
ID_CHARACTERS = "[0123456789abcdefghjkmnpqrstvwxyz]{26}"
SALE_FORM = re.compile("sal_" + ID_CHARACTERS)
HEX_FORM = re.compile("[0-9a-f]{64}")
ADDRESS_FORM = re.compile(r"https?://[^?#\s]+")
ENTRY_FORM = re.compile(f"ent_{ID_CHARACTERS} ([1-9][0-9]{{0,2}}|1000)\n".encode("ascii"))
SERVER_PATHS = {"draw.json": "", "entries.txt": "/entries", "results.txt": "/results"}


class Difference(Exception):
    """A check that does not hold, with the document and the line (None where no single line is to blame)."""
    def __init__(self, check, document, line, reason):
        place = document if line is None else f"{document}, line {line}"
        super().__init__(f"check {check} fails: {place}: {reason}")


def shown(value):
    """A value as a short row of printable ASCII characters."""
    return "nothing" if value is None else ascii(value)[:120]


def open_document(options, document):
    if options.dir is not None:
        return pathlib.Path(options.dir, document).open("rb")
    address = f"{options.server.rstrip('/')}/v1/sales/{options.sale}/draw{SERVER_PATHS[document]}"
    answer = urllib.request.urlopen(address, timeout=60)
    if answer.status != 200 or answer.geturl() != address:
        raise OSError(f"{address} answers {answer.status} from {answer.geturl()}")
    return answer


def read_document(options, document, limit):
    """Gives all bytes of a document; refuses what cannot be read or is longer than the limit."""
    try:
        with open_document(options, document) as source:
            content = source.read(limit + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Difference(0, document, None, f"cannot be read: {shown(str(error))}") from error
    if len(content) > limit:
        raise Difference(0, document, None, f"is longer than {limit} bytes")
    return content


def members_once(pairs):
    """Makes an object of its members; refuses a name that comes twice, as programs read that differently."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a member comes twice in one object")
    return dict(pairs)


class Draw:
    """The JSON document. Only the members that a check needs are looked at."""
    def __init__(self, content):
        try:
            self.source = content.decode("utf-8")
            # NaN and Infinity are not JSON; as no int they are refused.
            self.members = json.loads(self.source, object_pairs_hook=members_once, parse_constant=int)
        except (ValueError, RecursionError) as error:
            raise Difference(0, "draw.json", None, f"is not strict JSON: {shown(str(error))}") from error
        if type(self.members) is not dict:
            raise Difference(0, "draw.json", None, "is not a JSON object")

    def difference(self, check, name, due):
        """A difference at the line where the member is first written."""
        found = re.search(f'"{name}"\\s*:', self.source)
        line = self.source.count("\n", 0, found.start()) + 1 if found else None
        return Difference(check, "draw.json", line, f"{name} is {shown(self.members.get(name))}, but should be {due}")

    def text(self, check, name, form):
        value = self.members.get(name)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self.difference(check, name, f"of the form {form.pattern}")
        return value

    def expect(self, check, name, due):
        value = self.members.get(name)
        if type(value) is not type(due) or value != due:
            raise self.difference(check, name, shown(due))


def split_entries(content):
    """Gives the lines of the entry list, once their form and their order are found right."""
    lines = io.BytesIO(content).readlines()
    previous_id = b""
    for number, line in enumerate(lines, 1):
        if not ENTRY_FORM.fullmatch(line):
            raise Difference(3, "entries.txt", number, f"{shown(line)} is not '<entry id> <quantity>' and a line feed")
        if line[:ID_LENGTH] <= previous_id:
            raise Difference(3, "entries.txt", number, f"the id in {shown(line)} is not greater than the one before")
        previous_id = line[:ID_LENGTH]
    return lines


def draw_key(seed, sale, digest):
    return hmac.digest(seed, f"{ALGORITHM}\n{sale}\n{digest}\n".encode("ascii"), "sha256")


def compute_results(key, entry_lines, units):
    """Puts the entries in order and hands out the units; gives the results' lines and the number of winners."""
    # Ticket and line in one row of bytes: where tickets are equal, the entry id, which comes next, decides.
    rows = sorted(hmac.digest(key, line[:ID_LENGTH], "sha256") + line for line in entry_lines)
    result_lines, winners, left = [], 0, units
    for rank, row in enumerate(rows, 1):
        line = row[TICKET_LENGTH:]
        won = min(int(line[ID_LENGTH + 1:]), left)
        left -= won
        winners += won > 0
        result_lines.append(b"%d %b %d\n" % (rank, line[:ID_LENGTH], won))
    return result_lines, winners


def verify(options):
    """Makes all checks; raises Difference at the first that fails, or gives a list of what holds."""
    draw = Draw(read_document(options, "draw.json", DRAW_LIMIT))
    draw.expect(1, "state", "drawn")
    draw.expect(1, "algorithm", ALGORITHM)
    sale = draw.text(0, "sale", SALE_FORM)
    draw.expect(0, "sale", options.sale or sale)
    seed = bytes.fromhex(draw.text(2, "seed", HEX_FORM))
    draw.expect(2, "seed_hash", hashlib.sha256(seed).hexdigest())
    draw.expect(2, "seed_hash", options.noted_hash or draw.members["seed_hash"])
    entries = read_document(options, "entries.txt", ENTRY_LIST_LIMIT)
    entry_lines = split_entries(entries)
    draw.expect(3, "entries", len(entry_lines))
    digest = hashlib.sha256(entries).hexdigest()
    draw.expect(4, "entries_digest", digest)
    units = draw.members.get("units")
    if type(units) is not int or units < 0:
        raise draw.difference(5, "units", "an integer of 0 or more")
    computed_lines, winners = compute_results(draw_key(seed, sale, digest), entry_lines, units)
    results = read_document(options, "results.txt", RESULTS_LIMIT)
    for number, (line, due) in enumerate(itertools.zip_longest(io.BytesIO(results), computed_lines), 1):
        if line != due:
            raise Difference(5, "results.txt", number, f"is {shown(line)}, but should be {shown(due)}")
    draw.expect(6, "winners", winners)
    if digest_given := draw.members.get("results_digest") is not None:
        draw.expect(6, "results_digest", hashlib.sha256(results).hexdigest())
    return [
        f"1 {sale} is drawn by {ALGORITHM}",
        "2 the seed's SHA-256 is seed_hash, "
        + ("which is the noted one" if options.noted_hash else "but it was NOT compared with a noted one"),
        f"3 the entry list has the strict form, is sorted, and has {len(entry_lines)} lines",
        "4 the entry list's SHA-256 is entries_digest",
        f"5 the results for {units} units, computed again, are the published ones byte for byte",
        f"6 winners is {winners}; results_digest " + ("is the results' SHA-256" if digest_given else "is NOT given"),
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Runs a published draw again.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dir", help="directory with draw.json, entries.txt and results.txt")
    source.add_argument("--server", help="address of the server, as https://shop.example")
    parser.add_argument("--sale", help="the sale's id; needed with --server")
    parser.add_argument("--noted-hash", help="the seed hash noted while entries were open")
    options = parser.parse_args(arguments)
    for name, form in (("noted_hash", HEX_FORM), ("sale", SALE_FORM), ("server", ADDRESS_FORM)):
        value = getattr(options, name)
        if value is not None and not form.fullmatch(value):
            parser.error(f"{name} is not of the form {form.pattern}")
    if options.dir is None and options.sale is None:
        parser.error("--server needs --sale")
    try:
        print("The draw is the same. Checked:", *verify(options), sep="\n  ")
        return 0
    except Difference as difference:
        print(difference)
        return 1


if __name__ == "__main__":
    sys.exit(main())
