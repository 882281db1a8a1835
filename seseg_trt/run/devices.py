"""One process a device, over one work plan."""

from __future__ import annotations

import re

from ..backends.select import check_device


def split_devices(text: str) -> list[str]:
    """Return the devices that ``cuda:0,1`` or ``cpu,cpu`` names, one by one.

    Raises:
        UsageError: one of them is no device.
    """
    devices: list[str] = []
    for part in text.split(","):
        kind = devices[-1].partition(":")[0] if devices else ""
        devices.append(f"{kind}:{part}" if re.fullmatch(r"\d+", part) and kind else part)
    for device in devices:
        check_device(device)
    return devices
