"""The functions of aishim.h from Python, with ctypes alone. The argument says what is there: all, no-context or no-cuda."""

import ctypes
import errno
import sys

aishim = ctypes.CDLL(None, use_errno=True)
aishim.ai_alloc_pinned.restype = ctypes.c_void_p
aishim.ai_alloc_pinned.argtypes = [ctypes.c_size_t]
aishim.ai_free_pinned.restype = None
aishim.ai_free_pinned.argtypes = [ctypes.c_void_p]


class PoolStats(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("filled_bytes", ctypes.c_uint32)] + [
        (f"figure_{number}", ctypes.c_uint64) for number in range(10)
    ]


def reason_of_refusal():
    ctypes.set_errno(0)
    assert aishim.ai_alloc_pinned(4096) is None
    return errno.errorcode[ctypes.get_errno()]


def use():
    address = aishim.ai_alloc_pinned(1 << 20)
    buffer = (ctypes.c_uint8 * (1 << 20)).from_address(address)
    buffer[0], buffer[-1] = 1, 2
    assert bytes(buffer)[::len(buffer) - 1] == b"\1\2"
    stats = PoolStats()
    assert aishim.ai_pool_stats(ctypes.byref(stats), ctypes.sizeof(stats)) == 0
    aishim.ai_free_pinned(address)
    return f"version {stats.version}, {stats.filled_bytes} of {ctypes.sizeof(stats)} bytes, hits {stats.figure_7}"


what = sys.argv[1]
if what == "no-cuda":
    print(reason_of_refusal())
    sys.exit()
driver = ctypes.CDLL("libcuda.so.1")
assert driver.cuInit(0) == 0
if what == "no-context":
    print(reason_of_refusal())
    sys.exit()
context = ctypes.c_void_p()
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxSetCurrent(context) == 0
print(use())
