#!/usr/bin/env python3
"""Records what three programs do with pinned memory, small enough to be kept in the repository.

    python3 benches/gpu/record_traces.py [--only WORK...] [--traces FOLDER]

Runs each work of pinned_work.py under the shim with AISHIM_TRACE, gives threads and blocks short names, cuts the record
at --most-events, and writes it to benches/traces/WORK.trace with a heading that says where it comes from. Afterwards, on
any machine: cargo run --release -p aishim-benches --bin replay -- benches/traces/*.trace
"""

import collections
import datetime
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import runs

WORKS = ("dataloader", "serving", "uncached")
HEADING = "# aishim trace 1"


def main():
    parser = runs.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=WORKS, help="which works")
    parser.add_argument("--traces", type=Path, default=runs.ROOT / "benches" / "traces", help="where records go")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--most-events", type=int, default=4000, help="a record is cut there")
    args = runs.parse(parser)
    args.traces.mkdir(parents=True, exist_ok=True)

    rows, errors = [], {}
    for work in args.only:
        try:
            rows.append(record(args, work))
        except runs.RunFailed as error:
            errors[work] = str(error)
            print(f"{work}: {error}", flush=True)
    runs.print_table(("work", "events", "kept", "allocations", "frees", "synchronisations"), rows)
    sentence = f"{len(rows)} of {len(args.only)} recorded in {args.traces}"
    ok = not errors and all(row[3] > 0 for row in rows)
    runs.finish("record_traces", args, ok, sentence, {"rows": rows, "errors": errors})


def record(args, work):
    """Runs one work and writes its record; a row of the table."""
    command = [sys.executable, runs.HERE / "pinned_work.py", work, "--requests", args.requests]
    with tempfile.TemporaryDirectory() as folder, runs.runtime_dir() as segments:
        env = runs.shim_env(args.lib, segments, AISHIM_TRACE=str(Path(folder) / "record"))
        done = runs.run(command, env)
        path = Path(folder) / f"record.{done.pid}"
        if not path.is_file():
            raise runs.RunFailed(f"{work}: there is no record of process {done.pid}; did it use the GPU?")
        lines = path.read_text(encoding="ascii").splitlines()
    if lines[0] != HEADING:
        raise runs.RunFailed(f"{work}: the record begins with {lines[0]!r}")
    events = shortened(line.split() for line in lines[1:] if not line.startswith("#"))
    kept = events[: args.most_events]
    text = "\n".join((HEADING, *provenance(args, work, len(events), len(kept)), *kept)) + "\n"
    (args.traces / f"{work}.trace").write_text(text, encoding="ascii")
    counts = collections.Counter(event.split()[2] for event in kept)
    return (work, len(events), len(kept), counts["alloc"], counts["free"], counts["sync"])


def shortened(events):
    """The events with threads and blocks numbered as they come; a block's number is free again with the block."""
    threads, blocks, spare, result = {}, {}, [], []
    for at_us, thread, what, *rest in events:
        thread = threads.setdefault(thread, len(threads) + 1)
        if what == "alloc":
            number = spare.pop() if spare else len(blocks) + 1
            blocks[rest[0]] = number
            rest = [f"{number:x}", rest[1]]
        elif what == "free":
            number = blocks.pop(rest[0], None)
            if number is None:
                continue  # allocated before the record began, or a null pointer
            spare.append(number)
            rest = [f"{number:x}"]
        result.append(" ".join([at_us, str(thread), what, *rest]))
    return result


def provenance(args, work, events, kept):
    """Where a record comes from, as comments."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        gpu = "no GPU that nvidia-smi knows (a simulator?)"
    cut = f", the first {kept} of {events} events" if kept < events else ""
    yield f"# pinned_work.py {work} --requests {args.requests}{cut}"
    yield f"# recorded {datetime.date.today().isoformat()} on {platform.machine()}, {gpu.splitlines()[0]}"


if __name__ == "__main__":
    main()
