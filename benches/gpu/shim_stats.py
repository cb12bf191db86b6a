"""Reads what the shim recorded about one process, through `aictl stats PID --json`."""

import json
import re
import subprocess
import time


class NoStats(Exception):
    """aictl knows nothing of the process, or said something that cannot be read."""


def read(aictl, env, pid):
    """The figures of process `pid`, running or ended. `env` must carry the AISHIM_DIR of its run."""
    command = [str(aictl), "stats", str(pid), "--json"]
    plain_env = {key: value for key, value in env.items() if key != "LD_PRELOAD"}
    done = subprocess.run(command, env=plain_env, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise NoStats(f"aictl stats {pid} ended with {done.returncode}: {done.stderr.strip()}")
    try:
        processes = json.loads(done.stdout)["processes"]
    except (ValueError, KeyError, TypeError) as error:
        raise NoStats(f"aictl stats {pid} --json printed no document with processes: {error!r}") from None
    for process in processes:
        if process.get("pid") == pid:
            return ProcessStats(process)
    raise NoStats(f"aictl stats {pid} --json lists {[process.get('pid') for process in processes]}, not {pid}")


def read_ended(aictl, env, pid, patience_s=3.0):
    """As read, but waits a moment until the process is listed as ended."""
    deadline = time.monotonic() + patience_s
    while True:
        stats = read(aictl, env, pid)
        if stats.state == "ended" or time.monotonic() > deadline:
            return stats
        time.sleep(0.05)


class ProcessStats:
    """One process of the document; what is not there reads as 0."""

    def __init__(self, raw):
        self.raw = raw

    @property
    def state(self):
        return self.raw.get("state", "unknown")

    @property
    def gpu_time_ns(self):
        return whole(self.raw.get("gpu_time_ns"))

    @property
    def launches(self):
        return whole(self.raw.get("launches"))

    @property
    def pool_hits(self):
        return whole(self.raw.get("pool", {}).get("hits")) or self.counter("pool_hits")

    @property
    def pool_misses(self):
        """Requests that the pool passed on to the driver, by reason."""
        misses = self.raw.get("pool", {}).get("misses", {})
        return misses if isinstance(misses, dict) else {"all": whole(misses)}

    def counter(self, key):
        return whole(self.raw.get("counters", {}).get(key))

    def calls(self):
        """Calls by entry point, the per-thread-stream forms (_ptsz, _ptds) added to the plain ones."""
        total = {}
        for name, count in self.raw.get("calls", {}).items():
            plain = re.sub(r"_pt[sd][zs]$", "", name)
            total[plain] = total.get(plain, 0) + whole(count)
        return total


def whole(value):
    return value if isinstance(value, int) else 0
