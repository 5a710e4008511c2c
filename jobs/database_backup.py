"""Dumps a PostgreSQL database with pg_dump into BACKUP_DIR, checks the dump, and removes the oldest ones.

    DATABASE_URL=postgres://user:password@host/database BACKUP_DIR=backups python3 jobs/database_backup.py [--keep 14]

The URL comes from the environment and goes to pg_dump in the environment: an argument could be read by everyone on the
machine (ps), and no message here repeats any part of it but the database's name. A dump appears under its name only when it is
complete, on disk and readable by pg_restore; whatever stops the job before that leaves no file.
Restore with: pg_restore --clean --if-exists --dbname=... FILE
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote

from daybook_job import fail, progress, result, say

# Connection parameters a URL may carry behind the question mark, and libpq's variables for them.
PARAMETERS = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "dbname": "PGDATABASE",
    "gssencmode": "PGGSSENCMODE",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "options": "PGOPTIONS",
    "password": "PGPASSWORD",
    "port": "PGPORT",
    "sslcert": "PGSSLCERT",
    "sslcrl": "PGSSLCRL",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "user": "PGUSER",
}

# Tables and what they hold, in bytes: what progress is measured by.
SIZES = """
    select format('%s.%s', n.nspname, c.relname), pg_table_size(c.oid)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and c.relpersistence <> 't'
      and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
"""

TABLE = re.compile(r'^pg_dump: dumping contents of table "(.+)"$')


def connection(url):
    """The URL as libpq's environment variables, read as libpq reads it (PostgreSQL manual, 34.1.1.2)."""
    if not url:
        fail("DATABASE_URL is not set: give the job's team the secret that daybook.toml names")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql"):
        fail("DATABASE_URL must begin with postgres:// or postgresql://")
    rest, _, query = rest.partition("?")
    authority, _, database = rest.partition("/")
    account, _, hosts = authority.rpartition("@")
    user, _, password = account.partition(":")
    found = {"PGUSER": user, "PGPASSWORD": password, "PGDATABASE": database, **places(hosts)}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in PARAMETERS:
            fail("DATABASE_URL has a parameter this job does not know; it knows " + ", ".join(PARAMETERS))
        found[PARAMETERS[name]] = value
    found = {name: unquote(value) for name, value in found.items() if value}
    if "PGDATABASE" not in found:
        fail("DATABASE_URL names no database")
    return {"PGCONNECT_TIMEOUT": "15", "PGAPPNAME": "daybook-backup", **found}


def places(hosts):
    """`host:port,[v6]:port` as the two lists that libpq takes; a port may be missing."""
    found = [re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]]*))(?::(\d*))?", place) for place in hosts.split(",")]
    if not all(found):
        fail("DATABASE_URL names a host or port that is not valid")
    ports = [place[3] or "" for place in found]
    return {
        "PGHOST": ",".join(place[1] or place[2] or "" for place in found),
        "PGPORT": ",".join(ports) if any(ports) else "",
    }


def environment(libpq):
    """Only what the programs need. LC_ALL: their messages are read here. The password is never asked for."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "LC_ALL": "C", **libpq}


def table_sizes(env):
    """Bytes by table; nothing when that cannot be found out, which costs no more than the progress."""
    if not shutil.which("psql"):
        return {}
    command = ["psql", "--no-psqlrc", "--no-password", "-AtF", "\t", "-c", SIZES]
    try:
        asked = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return {}
    rows = (line.rsplit("\t", 1) for line in asked.stdout.splitlines() if "\t" in line)
    return {name: int(size) for name, size in rows} if asked.returncode == 0 else {}


def dump(env, file, sizes):
    """Runs pg_dump; its errors go to the log as they come. Returns how many tables were dumped."""
    command = ["pg_dump", "--format=custom", "--no-password", "--verbose", f"--file={file}"]
    total, done, current, tables = sum(sizes.values()), 0, None, 0
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            for line in process.stderr:
                table = TABLE.match(line.rstrip("\n"))
                if table:
                    done += sizes.get(current, 0)
                    current, tables = table.group(1), tables + 1
                    if total:
                        progress(0.05 + 0.85 * done / total)
                elif any(word in line for word in ("error", "warning", "hint", "detail", "fatal")):
                    print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        fail(f"pg_dump ended with {process.returncode}")
    return tables


def check(env, file):
    """A dump that cannot be listed cannot be restored."""
    listed = subprocess.run(
        ["pg_restore", "--list", str(file)], env=env, capture_output=True, text=True, errors="replace", check=False
    )
    if listed.returncode != 0:
        fail("pg_restore cannot read the dump: " + listed.stderr.strip()[:500])
    return sum(1 for line in listed.stdout.splitlines() if line and not line.startswith(";"))


def sha256(file):
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def flush(path):
    """Onto the disk, a folder's entries too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial, file, digest):
    """The sum first: a dump that is there has its sum beside it."""
    sums = file.with_name(file.name + ".sha256")
    sums.write_text(f"{digest}  {file.name}\n", encoding="ascii")
    flush(partial)
    flush(sums)
    partial.rename(file)
    flush(file.parent)


def remove_oldest(folder, stem, keep):
    """Names sort by time. Only what this job has written for this database is ever removed."""
    ours = re.compile(re.escape(stem) + r"-\d{8}T\d{6}Z-[0-9a-zA-Z]+\.dump")
    dumps = sorted(file for file in folder.iterdir() if ours.fullmatch(file.name))
    oldest = dumps[:-keep]
    for file in oldest:
        file.unlink()
        file.with_name(file.name + ".sha256").unlink(missing_ok=True)
        say(f"removed {file.name}")
    return [file.name for file in oldest]


def remove_leftovers(folder, stem, job):
    """What an attempt that was killed could not remove: an earlier one of this job, or one of days ago."""
    two_days_ago = time.time() - 2 * 86_400
    for file in folder.glob(f".{stem}-*.dump.partial"):
        if file.name.endswith(f"-{job}.dump.partial") or file.stat().st_mtime < two_days_ago:
            file.unlink(missing_ok=True)
            say(f"removed {file.name}, left by an attempt that was killed")


def stop(signum, _frame):
    """Daybook asks a job to end with SIGTERM: clean up on the way out."""
    fail(f"stopped by signal {signum}", 128 + signum)


def at_least_one(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main():
    parser = argparse.ArgumentParser(description="Dumps the database of DATABASE_URL into BACKUP_DIR.")
    parser.add_argument("--keep", type=at_least_one, default=14, help="dumps of this database to keep (14)")
    keep = parser.parse_args().keep
    os.umask(0o077)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, stop)
    for program in ("pg_dump", "pg_restore"):
        if not shutil.which(program):
            fail(f"{program} is not on PATH: install PostgreSQL's client programs")

    libpq = connection(os.environ.get("DATABASE_URL"))
    env = environment(libpq)
    folder = Path(os.environ.get("BACKUP_DIR") or "backups").absolute()
    folder.mkdir(parents=True, exist_ok=True)

    started = time.monotonic()
    stem = re.sub(r"[^A-Za-z0-9_.]", "_", libpq["PGDATABASE"])
    job = re.sub(r"[^0-9a-zA-Z]", "", os.environ.get("DAYBOOK_JOB_ID", "")) or str(os.getpid())
    at = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    file = folder / f"{stem}-{at}-{job}.dump"
    partial = file.with_name(f".{file.name}.partial")

    remove_leftovers(folder, stem, job)
    say(f"dumping {libpq['PGDATABASE']}")
    progress(0.02)
    try:
        tables = dump(env, partial, table_sizes(env))
        progress(0.9)
        entries = check(env, partial)
        size, digest = partial.stat().st_size, sha256(partial)
        publish(partial, file, digest)
    finally:
        partial.unlink(missing_ok=True)
    removed = remove_oldest(folder, stem, keep)
    progress(1.0)
    say(f"{file.name}: {tables} tables, {size} bytes, sha256 {digest}")
    result(
        {
            "database": libpq["PGDATABASE"],
            "file": str(file),
            "bytes": size,
            "sha256": digest,
            "tables": tables,
            "entries": entries,
            "removed": removed,
            "seconds": round(time.monotonic() - started, 3),
        }
    )


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        fail(f"the backup failed: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
