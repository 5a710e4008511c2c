"""What a job says to Daybook: progress on standard output, a result document in the file DAYBOOK_RESULT.

Works without Daybook too, so that a script can be tried by hand: then the result goes to standard output.
"""

import json
import os
import sys


def say(text):
    """One line for the job's log, at once."""
    print(text, flush=True)


def progress(share):
    """How much is done, from 0 to 1."""
    print(f"::progress {min(max(share, 0.0), 1.0):.3f}", flush=True)


def fail(text, code=1):
    """Ends the job as failed, with the reason in its log."""
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def result(document):
    """Leaves the job's result: any JSON up to 1 MiB."""
    text = json.dumps(document, ensure_ascii=False, sort_keys=True)
    path = os.environ.get("DAYBOOK_RESULT")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        say(f"result: {text}")
