"""Asks for a URL and fails unless the answer is as expected.

    python3 jobs/http_check.py --url https://example.org/health [--status 200] [--contains ok] [--seconds 10]

Redirects are not followed: they are an answer. For https the certificate must be valid, and the result says until when.
"""

import argparse
import http.client
import re
import signal
import socket
import ssl
import sys
import time
from datetime import datetime, timezone
from urllib.parse import urlsplit

from daybook_job import fail, progress, result, say

# What is read of an answer at most.
MOST_BYTES = 1 << 20


class TooSlow(Exception):
    """The whole exchange took longer than allowed."""


def target(url):
    """The URL in parts; a URL that cannot be asked for, or that holds a password, is refused."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        fail("the URL is not valid", 2)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fail("the URL must begin with http:// or https:// and name a host", 2)
    if parts.username is not None or parts.password is not None:
        fail("the URL must hold no user name or password: a job's arguments are recorded", 2)
    if not re.fullmatch(r"[!-~]+", url):
        fail("the URL has spaces or other characters that must be percent-encoded", 2)
    return parts, port


def connect(parts, port, seconds):
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, port, timeout=seconds, context=context)
    return http.client.HTTPConnection(parts.hostname, port, timeout=seconds)


def ask(url, seconds):
    """Status, the beginning of the body, and when the certificate expires (None for http)."""
    parts, port = target(url)
    link = connect(parts, port, seconds)
    try:
        link.connect()
        expires = None
        if isinstance(link.sock, ssl.SSLSocket):
            not_after = ssl.cert_time_to_seconds(link.sock.getpeercert()["notAfter"])
            expires = datetime.fromtimestamp(not_after, timezone.utc).isoformat().replace("+00:00", "Z")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        link.request("GET", path, headers={"User-Agent": "daybook-http-check", "Accept": "*/*", "Connection": "close"})
        answer = link.getresponse()
        return answer.status, answer.read(MOST_BYTES), expires
    finally:
        link.close()


def too_slow(_signum, _frame):
    raise TooSlow


def exchange(url, seconds):
    """As `ask`, with an end for all of it: a socket's own limit starts anew with every byte."""
    signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return ask(url, seconds)
    except (TooSlow, socket.timeout):
        fail(f"no answer within {seconds:g} s")
    except ssl.SSLCertVerificationError as error:
        fail(f"the certificate is not valid: {error.verify_message}")
    except (OSError, http.client.HTTPException) as error:
        fail(f"no answer: {error or type(error).__name__}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main():
    parser = argparse.ArgumentParser(description="Asks for a URL and fails unless the answer is as expected.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--status", type=int, default=200, help="the expected status (200)")
    parser.add_argument("--contains", help="text the answer must contain, within its first MiB")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long all of it may take (10)")
    wanted = parser.parse_args()

    started = time.monotonic()
    status, body, expires = exchange(wanted.url, wanted.seconds)
    seconds = round(time.monotonic() - started, 3)
    found = wanted.contains is None or wanted.contains.encode() in body
    say(f"{status} after {seconds} s, {len(body)} bytes read")
    result(
        {
            "url": wanted.url,
            "status": status,
            "expected_status": wanted.status,
            "contains": found,
            "bytes": len(body),
            "seconds": seconds,
            "certificate_expires_at": expires,
        }
    )
    if status != wanted.status:
        fail(f"expected {wanted.status}, got {status}")
    if not found:
        fail("the answer does not contain the expected text")
    progress(1.0)


if __name__ == "__main__":
    sys.exit(main())
