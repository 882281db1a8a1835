"""Describe what a figure was measured on: the machine, its clocks, the code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from .process import ROOT

TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe() -> dict[str, Any]:
    """Describe the machine: CPU, cores, memory, operating system, GPUs."""
    info = _cpuinfo()
    flags = info.get("flags", "").split()
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "isa": [flag for flag in TELLING_FLAGS if flag in flags],
        "virtual": "hypervisor" in flags,
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "os": f"{platform.system()} {platform.release()}",
        "gpus": gpus(),
    }


def kind(machine: dict[str, Any]) -> str:
    """Return a folder name for the kind of a machine: its cores, CPU, widest instruction set and GPUs.

    Args:
        machine: as of :func:`describe`.
    """
    isa = machine["isa"]
    widest = "amx" if "amx_int8" in isa else "avx512vnni" if "avx512_vnni" in isa else isa[-1] if isa else machine["cpu"]
    cpu = re.sub(r"\((r|tm)\)|cpu|processor|@.*", "", machine["cpu"].lower())
    parts = [f"{machine['cores']}-cores", cpu, widest, *sorted({gpu["name"].lower() for gpu in machine["gpus"]})]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts)).strip("-")


def gpus() -> list[dict[str, str]]:
    """Return name, driver, clocks, power limit and temperature of each NVIDIA GPU; an empty list if nvidia-smi is missing or fails."""
    fields = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "temperature.gpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [dict(zip(fields, (v.strip() for v in line.split(",")), strict=True)) for line in found.splitlines() if line.strip()]


def ticks() -> tuple[int, int]:
    """Return the total CPU time and the CPU steal since boot, in ticks summed over all cores."""
    found = _ticks()
    return sum(found), found[7]


def _ticks() -> list[int]:
    return [int(t) for t in _read("/proc/stat").split("\n", 1)[0].split()[1:9]] or [0] * 8


def clock_state() -> dict[str, Any]:
    """Return the current clocks and load, and counters of ticks since boot for :func:`clock_change`."""
    megahertz = [float(m) for m in re.findall(r"cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo"))]
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    found = _ticks()
    return {
        "mhz": [round(m) for m in megahertz],
        "governor": governor or None,
        "load": round(os.getloadavg()[0], 2),
        "busy_ticks": sum(found) - found[3] - found[4],
        "stolen_ticks": found[7],
        "all_ticks": sum(found),
        "gpus": [{k: g[k] for k in ("clocks.sm", "clocks.mem", "temperature.gpu")} for g in gpus()] or None,
    }


def clock_change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Summarise the clocks, the load, the CPU steal and the CPU use between two states of :func:`clock_state`; shares are 0..1."""
    elapsed = max(1, after["all_ticks"] - before["all_ticks"])
    return {
        "mhz": after["mhz"],
        "governor": after["governor"],
        "load_before": before["load"],
        "load_after": after["load"],
        "stolen_share": round((after["stolen_ticks"] - before["stolen_ticks"]) / elapsed, 4),
        "busy_share": round((after["busy_ticks"] - before["busy_ticks"]) / elapsed, 4),
        "gpus": after["gpus"],
    }


def commit() -> dict[str, Any]:
    """Return the commit of the checkout (None if git fails), and the files of measured code that were changed since."""
    try:
        revision = _git("rev-parse", "HEAD").strip()
        changed = [line[3:] for line in _git("status", "--porcelain", "--untracked-files=no").splitlines()]
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": []}
    measured = ("seseg_trt/", "engine/", "benchmarks/")
    return {
        "commit": revision,
        "changed": [p for p in changed if p.startswith(measured) and "/results/" not in p and not p.endswith(".md")],
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _cpuinfo() -> dict[str, str]:
    first = _read("/proc/cpuinfo").split("\n\n")[0]
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
