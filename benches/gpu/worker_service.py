#!/usr/bin/env python3
"""A service with worker processes: the parent counts devices, the workers compute.

    python3 benches/gpu/worker_service.py spawn 300 500

starts one worker per number, by the given start method; each launches that many kernels, checks the result and waits. The
parent prints "workers PID PID ..." when all are done, and ends them when a line comes on its standard input.
"""

import multiprocessing
import os
import queue
import sys


def main():
    method, *counts = sys.argv[1:]
    import torch

    if torch.cuda.device_count() < 1:
        sys.exit("worker_service.py found no CUDA device.")
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["torch"])
    done, end = context.Queue(), context.Event()
    workers = [context.Process(target=work, args=(rank, int(count), done, end)) for rank, count in enumerate(counts)]
    for worker in workers:
        worker.start()
    pids = collect(done, workers)
    print("workers", *(pids[rank] for rank in range(len(workers))), flush=True)
    sys.stdin.readline()
    end.set()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


def collect(done, workers):
    """The PID of each worker by rank, once it is done; ends the program when a worker has failed."""
    pids = {}
    while len(pids) < len(workers):
        try:
            rank, pid = done.get(timeout=0.5)
            pids[rank] = pid
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                sys.exit("worker_service.py: a worker failed")
    return pids


def work(rank, launches, done, end):
    """Launches one small kernel again and again, and tells its PID when the result is right."""
    import torch

    total = torch.zeros(1024, device="cuda")
    for _ in range(launches):
        total.add_(1)
    if total.cpu().tolist() != [float(launches)] * 1024:
        sys.exit(f"worker {rank}: a wrong sum")
    done.put((rank, os.getpid()))
    end.wait()


if __name__ == "__main__":
    main()
