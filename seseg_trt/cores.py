"""Count the cores that this process may keep busy."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: its affinity, and the CPU quota of its control groups, rounded up.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _cpu_quota(root))))


def quota_threads() -> int | None:
    """Return how many threads a library may start where a CPU quota binds; None where its own choice is right."""
    cores = usable_cores()
    return cores if cores < len(os.sched_getaffinity(0)) else None


def _cpu_quota(root: Path) -> float:
    """Return the smallest quota, in cores, of this process's control groups and those around them; infinity where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        folder = mount / path.strip("/")
        # In a container the path may be the host's: the mount itself is then the group.
        for group in [folder, *folder.parents]:
            if group == mount or mount in group.parents:
                quotas.append(_quota_of(group))
    return min(quotas)


def _quota_of(group: Path) -> float:
    """Return one group's quota in cores, by version 2 (``cpu.max``) or 1 of control groups."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
