"""Reports how full the machine's file systems are, and fails when one is fuller than allowed.

    python3 jobs/disk_report.py [--fail-above 90]
"""

import argparse
import subprocess

from daybook_job import fail, progress, result, say

# File systems that hold nothing of anybody, or that are always full.
NOT_DISKS = ("devfs", "devtmpfs", "map ", "none", "shm", "squashfs", "tmpfs", "udev", "/dev/loop")
SMALLEST_BYTES = 16 * 2**20


def file_systems():
    """From `df -P -k` (POSIX): device, blocks of 1 KiB, used, available, percent, where it is mounted."""
    try:
        asked = subprocess.run(["df", "-P", "-k"], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        fail("df did not answer within 60 s: is a network file system away?")
    found = {}
    for line in asked.stdout.splitlines()[1:]:
        columns = line.split(None, 5)
        if len(columns) < 6 or not all(column.isdigit() for column in columns[1:3]):
            continue
        device, used, available, mounted = columns[0], int(columns[2]), columns[3], columns[5]
        usable = used + max(int(available) if available.lstrip("-").isdigit() else 0, 0)
        if usable * 1024 < SMALLEST_BYTES or device.startswith(NOT_DISKS):
            continue
        # The shortest mount point stands for a device that is mounted several times.
        known = found.get(device)
        if known is None or len(mounted) < len(known["mounted_on"]):
            found[device] = {
                "device": device,
                "mounted_on": mounted,
                "used_bytes": used * 1024,
                "usable_bytes": usable * 1024,
                "percent": round(100 * used / usable, 1),
            }
    if not found:
        fail("df names no file systems: " + asked.stderr.strip()[:300])
    return sorted(found.values(), key=lambda one: -one["percent"])


def main():
    parser = argparse.ArgumentParser(description="Reports how full the file systems are.")
    parser.add_argument("--fail-above", type=float, default=90.0, help="too full above this percentage (90)")
    limit = parser.parse_args().fail_above
    found = file_systems()
    for one in found:
        used, usable = one["used_bytes"] / 2**30, one["usable_bytes"] / 2**30
        say(f"{one['percent']:5.1f}%  {used:9.1f} of {usable:9.1f} GiB  {one['mounted_on']}")
    full = [one["mounted_on"] for one in found if one["percent"] > limit]
    result({"file_systems": found, "fail_above": limit, "too_full": full})
    if full:
        fail(f"over {limit:g}%: " + ", ".join(full))
    progress(1.0)


if __name__ == "__main__":
    main()
