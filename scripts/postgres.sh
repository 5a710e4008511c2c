#!/bin/sh
# Makes sure that PostgreSQL's server programs are on this machine: `initdb` and `postgres`, version 15 or newer.
#
#   scripts/postgres.sh           find them, or install them with the system's package manager
#   scripts/postgres.sh --check   only look: 0 found, 1 not found
#
# It only installs programs. No server is started and no cluster is made: `daybook` makes its own, in its data folder.
# Where it looks is where `daybook` looks (ledger/src/private/programs.rs).
set -u

OLDEST=15

say() { printf '%s\n' "postgres: $*" >&2; }
die() { say "$*"; exit 1; }

# Major version of the programs in a folder; nothing if they are not both there.
major_in() {
    [ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 1
    "$1/postgres" --version 2>/dev/null | sed -n 's/^.*(PostgreSQL) \([0-9][0-9]*\).*$/\1/p'
}

# Every folder that may hold them, one a line: PATH, then Debian, Homebrew (Apple silicon, Intel), PostgreSQL's own packages
# for Fedora and its relatives, and /usr/bin (Fedora's and Alpine's own).
places() {
    printf '%s\n' "${PATH:-}" | tr ':' '\n'
    for folder in /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
        /usr/pgsql-*/bin; do
        if [ -d "$folder" ]; then printf '%s\n' "$folder"; fi
    done
    printf '%s\n' /usr/bin
}

# The first folder with programs that are new enough.
find_programs() {
    places | while IFS= read -r folder; do
        major=$(major_in "$folder") || continue
        if [ -n "$major" ] && [ "$major" -ge "$OLDEST" ]; then
            printf '%s\n' "$folder"
            break
        fi
    done
}

# What was found but is too old, for the message.
found_versions() {
    places | while IFS= read -r folder; do major_in "$folder"; done | sort -un | tr '\n' ' '
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; run as root: $*"
    fi
}

announce() { say "no PostgreSQL $OLDEST or newer on this machine; installing it: $*"; }

# Debian's package would otherwise make and start a cluster of its own on port 5432, which nobody here asked for.
no_cluster_of_its_own() {
    [ -e /etc/postgresql-common/createcluster.conf ] && return 0
    as_root sh -c 'mkdir -p /etc/postgresql-common && printf "%s\n" \
        "# Written by Daybook (scripts/postgres.sh): its private server needs the programs only." \
        "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf'
}

# `--force-confold`: the file above is a configuration file of the package; keep ours without asking.
with_apt() {
    announce "apt-get install postgresql"
    no_cluster_of_its_own
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q || say "apt-get update failed; trying with the lists that are here"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o Dpkg::Options::=--force-confold postgresql
}

with_dnf() {
    announce "dnf install postgresql-server"
    as_root dnf install -y postgresql-server
}

# Homebrew refuses root, and needs none.
with_brew() {
    announce "brew install postgresql@17"
    brew install postgresql@17
}

with_apk() {
    announce "apk add postgresql"
    as_root apk add postgresql
}

install_programs() {
    if command -v apt-get >/dev/null 2>&1; then with_apt
    elif command -v dnf >/dev/null 2>&1; then with_dnf
    elif command -v brew >/dev/null 2>&1; then with_brew
    elif command -v apk >/dev/null 2>&1; then with_apk
    else
        die "no PostgreSQL $OLDEST or newer here, and no package manager that this script knows (apt-get, dnf, brew, apk)." \
            "Install PostgreSQL's server programs (initdb, postgres), put them on PATH, or set DATABASE_URL."
    fi
}

case "${1:-}" in
    "") ;;
    --check) if [ -n "$(find_programs)" ]; then exit 0; else exit 1; fi ;;
    *) say "usage: scripts/postgres.sh [--check]"; exit 2 ;;
esac

[ -n "$(find_programs)" ] && exit 0
install_programs || die "the installation failed; see above. Install PostgreSQL $OLDEST or newer by hand, or set DATABASE_URL."
folder=$(find_programs)
if [ -z "$folder" ]; then
    die "installed, but still no initdb and postgres of version $OLDEST or newer (found: $(found_versions))." \
        "Install a newer one from https://www.postgresql.org/download/, or set DATABASE_URL."
fi
say "installed: $folder"
