#!/usr/bin/env python3
"""Makes commands/src/passwords/common.txt, the list of passwords that nobody may choose.

usage: common_passwords.py RANKED.txt FOLDER > common.txt

RANKED is a list of passwords, the most frequent first, and FOLDER has files of passwords without an order;
commands/src/passwords/common.md says where they come from. `joined` and `core` do what the functions of these names do in
commands/src/passwords/common.rs: the list holds what they make of passwords, so that a look-up is one search.
"""

import pathlib
import re
import string
import sys

SHORTEST_PASSWORD = 12
# Longer ones are accidents: profiles, texts that were read wrongly.
LONGEST_PASSWORD = 32
SHORTEST_CORE = 4
# Where the ranked list ends whose passwords were seen twice or more. What follows was seen once, from the end of the alphabet
# up to w: no reason to prefer it.
SEEN_TWICE = 770_000
# The most frequent ones, from which the words are taken that people put digits and signs around.
WORDS_FROM = 100_000
# Ours: the name of the service, and the example that everybody has read.
ADDED = ["daybook", "backoffice", "correcthorsebatterystaple"]

SEPARATORS = set("-_.")
AROUND = string.digits + string.punctuation
ADDRESS = re.compile(r"[^@]@[^@]*\.[A-Za-z]{2}|[^@]@[^@]+com$")


def joined(password):
    return "".join(c for c in password.lower() if c not in SEPARATORS and not c.isspace())


def core(password):
    return joined(password).strip(AROUND)


def read(path):
    lines = path.read_bytes().decode("utf-8", "ignore").split("\n")
    return [line.rstrip("\r") for line in lines]


def is_kept(password):
    # No addresses: they may be somebody's. The Cyrillic is what is left of characters that were lost on the way.
    return password.isprintable() and not ADDRESS.search(password) and "пїѕ" not in password.lower()


def spelled_in_several_ways(passwords):
    """Those of the unranked that are there in two spellings or more: several people had them."""
    spellings = {}
    for password in passwords:
        if password:
            spellings.setdefault(joined(password), set()).add(password)
    return {entry for entry, ways in spellings.items() if len(ways) > 1}


def main(ranked, folder):
    ranked = [password for password in read(pathlib.Path(ranked)) if is_kept(password)]
    files = sorted(pathlib.Path(folder).rglob("*.txt"))
    unranked = (password for file in files for password in read(file) if is_kept(password))
    whole = {joined(password) for password in ranked[:SEEN_TWICE]} | spelled_in_several_ways(unranked)
    words = {core(password) for password in ranked[:WORDS_FROM]}
    entries = {entry for entry in whole if SHORTEST_PASSWORD <= len(entry) <= LONGEST_PASSWORD}
    entries |= {entry for entry in words if SHORTEST_CORE <= len(entry) <= LONGEST_PASSWORD}
    entries |= set(ADDED)
    for entry in sorted(entry.encode() for entry in entries):
        sys.stdout.buffer.write(entry + b"\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
