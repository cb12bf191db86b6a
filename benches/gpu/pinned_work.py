#!/usr/bin/env python3
"""Programs that use pinned memory in three ways, for record_traces.py.

    python3 benches/gpu/pinned_work.py dataloader|serving|uncached [--requests N] [--seed N]

dataloader  PyTorch's DataLoader with workers and pin_memory, its batches copied to the GPU: an epoch of images
serving     PyTorch, four threads: requests of many lengths, pinned in and out, each ended by a synchronisation
uncached    the driver API, four threads: memory of each request allocated, copied from and freed; no allocator of its own
"""

import argparse
import ctypes
import queue
import random
import threading

THREADS = 4
LOADER_WORKERS = 4
BATCH = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("work", choices=sorted(WORKS))
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    WORKS[args.work](args)


def dataloader(args):
    import torch

    loader = torch.utils.data.DataLoader(Images(args.requests * BATCH, args.seed), batch_size=BATCH,
                                         num_workers=LOADER_WORKERS, pin_memory=True)
    model = torch.nn.Conv2d(3, 16, 7, stride=4).cuda()
    for images, labels in loader:
        model(images.cuda(non_blocking=True)).mean().item()
        labels.cuda(non_blocking=True)


class Images:
    """Images of one size, as a training set has them after its transforms."""

    def __init__(self, length, seed):
        self.length = length
        self.seed = seed

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        import torch

        return torch.full((3, 224, 224), float(index % 255)), (index + self.seed) % 1000


def serving(args):
    import torch

    weight = torch.randn(1024, 1024, device="cuda", dtype=torch.float16)

    def serve(tokens, stream):
        with torch.cuda.stream(stream):
            request = torch.empty((tokens, 1024), dtype=torch.float16, pin_memory=True)
            answer = torch.empty((tokens, 1024), dtype=torch.float16, pin_memory=True)
            answer.copy_(request.cuda(non_blocking=True) @ weight, non_blocking=True)
            stream.synchronize()

    in_threads(args, lambda: torch.cuda.Stream(), serve)


def uncached(args):
    driver = Driver()
    device_memory = driver.device_memory(64 << 20)

    def serve(tokens, stream):
        request = driver.pinned(tokens * 2048)
        answer = driver.pinned(tokens * 256)
        driver.call("cuMemcpyHtoDAsync_v2", device_memory, request, ctypes.c_size_t(tokens * 2048), stream)
        driver.call("cuMemFreeHost", request)
        driver.call("cuMemcpyDtoHAsync_v2", answer, device_memory, ctypes.c_size_t(tokens * 256), stream)
        driver.call("cuStreamSynchronize", stream)
        driver.call("cuMemFreeHost", answer)

    in_threads(args, driver.stream, serve)


def in_threads(args, make_stream, serve):
    """Serves requests of log-normal lengths, 1 to 8192 tokens, by threads of which each has a stream."""
    lengths = random.Random(args.seed)
    requests = queue.SimpleQueue()
    for _ in range(args.requests):
        requests.put(max(1, min(8192, int(lengths.lognormvariate(5.5, 1.2)))))

    def work():
        stream = make_stream()
        while True:
            try:
                tokens = requests.get_nowait()
            except queue.Empty:
                return
            serve(tokens, stream)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Driver:
    """As much of the CUDA driver API as `uncached` needs."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.context = ctypes.c_void_p()
        device = ctypes.c_int()
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise SystemExit(f"pinned_work.py: {name} failed with error {status}")

    def stream(self):
        self.call("cuCtxSetCurrent", self.context)
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(1))
        return stream

    def device_memory(self, size_bytes):
        memory = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size_bytes))
        return memory

    def pinned(self, size_bytes):
        memory = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(memory), ctypes.c_size_t(size_bytes), ctypes.c_uint(0))
        return memory


WORKS = {"dataloader": dataloader, "serving": serving, "uncached": uncached}

if __name__ == "__main__":
    main()
