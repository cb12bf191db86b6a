"""What the GPU checks share: their arguments, runs of programs with and without the shim, and how a result is left."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
HERE = Path(__file__).resolve().parent

started = []
"""Every program started so far."""

ending = False
"""Set when the script has been asked to end: nothing more is started."""


def parser(description):
    """A parser with the arguments every check takes."""
    result = argparse.ArgumentParser(description=description.split("\n\n")[0])
    result.add_argument("--lib", type=Path, default=ROOT / "dist" / "libaishim.so", help="the library to preload")
    result.add_argument("--aictl", type=Path, default=ROOT / "dist" / "aictl", help="the aictl that reads it")
    result.add_argument("--out", type=Path, help="folder for raw results (default: benches/runs/DATE-MACHINE)")
    result.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries the script itself")
    return result


def parse(argument_parser):
    """Parses, and ends with one sentence when a file is missing."""
    args = argument_parser.parse_args()
    for path, what in ((args.lib, "the library (--lib)"), (args.aictl, "aictl (--aictl)")):
        if not path.is_file():
            sys.exit(f"{sys.argv[0]}: {what} is not at {path}; build it with `make`.")
    args.lib = args.lib.resolve()
    args.aictl = args.aictl.resolve()
    args.out = args.out or default_out()
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, end_with_programs)
    return args


def end_with_programs(*_):
    """Ends this script and every program it has started, which a timeout's SIGTERM alone would leave on the GPU."""
    global ending
    ending = True
    for process in started:
        if process.returncode is None:
            kill_group(process)
    sys.exit("ended by SIGTERM")


def default_out():
    return ROOT / "benches" / "runs" / f"{datetime.date.today().isoformat()}-{platform.node()}"


def native_env(**extra):
    """The environment of a run without the shim: nothing preloaded, none of its settings."""
    kept = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD" and not key.startswith("AISHIM")}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


def shim_env(lib, runtime_dir, **extra):
    """The environment of a run under the shim."""
    return native_env(LD_PRELOAD=str(lib), AISHIM_DIR=str(runtime_dir), **extra)


@contextlib.contextmanager
def runtime_dir():
    """A fresh directory for segments, in memory where there is a /dev/shm, as the default one is."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="aishim-check-", dir=base)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


class RunFailed(Exception):
    """A program ended with another exit code than 0, or not in time."""


@dataclass
class Finished:
    """A program that ended well."""

    pid: int
    stdout: str
    stderr: str
    elapsed_s: float


def run(command, env, timeout_s=240):
    """Runs a program to its end. Raises RunFailed, with the end of its stderr, when it does not exit with 0."""
    return finished(start(command, env), timeout_s)


def finished(process, timeout_s=240):
    """Waits for a program that `start` has started; as `run`."""
    began = time.monotonic()
    command = process.args
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        stop_group(process)
        raise RunFailed(f"{shown(command)}: still running after {timeout_s} s") from None
    except BaseException:
        stop_group(process)
        raise
    if process.returncode != 0:
        tail = "\n".join(stderr.strip().splitlines()[-12:])
        raise RunFailed(f"{shown(command)}: exit code {process.returncode}\n{tail}")
    return Finished(process.pid, stdout, stderr, time.monotonic() - began)


def start(command, env):
    """Starts a program in a process group of its own, its three standard streams as pipes."""
    if ending:
        raise RunFailed(f"{shown(command)}: not started, the check is ending")
    process = subprocess.Popen(
        [str(part) for part in command],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    return process


def stop_group(process):
    """Ends a program and its children, and reads what is left in its pipes."""
    kill_group(process)
    with contextlib.suppress(ValueError):
        process.communicate()


def wait_for_line(process, word, timeout_s=240):
    """Reads the program's stdout up to a line that begins with `word`, and returns that line."""
    # A watchdog ends the program, and with it the read, where select() would miss what Python has buffered already.
    began = time.monotonic()
    watchdog = signal.signal(signal.SIGALRM, lambda *_: kill_group(process))
    signal.alarm(timeout_s)
    try:
        for line in process.stdout:
            if line.startswith(word):
                return line.strip()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, watchdog)
    _, stderr = process.communicate()
    tail = "\n".join(stderr.strip().splitlines()[-12:])
    elapsed_s = time.monotonic() - began
    raise RunFailed(f"{shown(process.args)}: no line '{word}', but its end after {elapsed_s:.1f} s\n{tail}")


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def shown(command):
    return " ".join(str(part) for part in command)


def infer_command(device, *arguments):
    """The inference example as a user runs it."""
    return [sys.executable, EXAMPLES / "infer.py", "--device", device, *arguments]


def last_json(text):
    """The object on the last line of a program's output."""
    return json.loads(text.strip().splitlines()[-1])


def size_name(size_bytes):
    """A size as people say it."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size_bytes >= unit:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes >> 10} KiB"


def print_table(headers, rows):
    """Prints rows as columns of even width, the first to the left, the others to the right."""
    table = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    for row in table:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


def finish(name, args, ok, sentence, record):
    """Writes NAME.json, prints the verdict as the last line and ends: 0 when ok, else 1."""
    document = {
        "schema_version": 1,
        "check": name,
        "ok": ok,
        "sentence": sentence,
        "command": [sys.executable, *sys.argv],
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **record,
    }
    path = args.out / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"{name}: {'ok' if ok else 'FAIL'}: {sentence}", flush=True)
    sys.exit(0 if ok else 1)
