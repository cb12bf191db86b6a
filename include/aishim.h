/* Pinned host memory straight from aishim's pool, for programs that know of it.
 *
 * libaishim.so exports these functions beside the CUDA driver's. A program that runs under the library
 * (LD_PRELOAD, or `aictl run -- PROGRAM`) finds them with dlsym(RTLD_DEFAULT, "ai_alloc_pinned"), and so can do without
 * where they are not there. One that is linked to it (-laishim, in front of -lcuda) has them always, and the library's
 * other services with them. From Python: examples/pinned_numpy.py.
 *
 * No function prints, aborts or throws. All may be called by any thread; inside a host function of a stream
 * (cuLaunchHostFunc) none but ai_pool_stats, since the driver may be called.
 */
#ifndef AISHIM_H
#define AISHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Page-locked host memory of at least `bytes` bytes, aligned to 4 KiB, not zeroed: as cuMemHostAlloc gives with
 * CU_MEMHOSTALLOC_PORTABLE (CUDA Driver API, Memory Management), for all contexts and usable on the device under the same
 * address. From the pool where it has room, which takes some tens of nanoseconds; else, and where the library is switched
 * off, from the driver, which takes a fraction of a millisecond. It ends with the context that was current.
 *
 * NULL where it cannot be had, and errno says why:
 *   EINVAL  bytes is 0
 *   ENODEV  the process has no CUDA driver, has not initialised it, or is the child of a process that had
 *   ENXIO   no CUDA context is current on the thread
 *   EBUSY   a stream capture is open that forbids it
 *   ENOMEM  neither the pool nor the driver has room
 *   EIO     the driver refused for another reason */
void *ai_alloc_pinned(size_t bytes);

/* Frees memory of ai_alloc_pinned, on any thread, whatever context is current there. Does not wait for the GPU where the
 * memory is the pool's: the pool hands it out again only once the work submitted before has finished. NULL does nothing;
 * nor does what was freed before, or is none of that memory. errno is left alone. */
void ai_free_pinned(void *memory);

/* What the version 1 of ai_pool_stats fills. Later ones append, and change nothing. */
#define AI_POOL_STATS_VERSION 1

struct ai_pool_stats {
    uint32_t version;           /* of the library: what it knows, AI_POOL_STATS_VERSION or newer */
    uint32_t filled_bytes;      /* how many bytes of the structure it has filled */
    uint64_t capacity_bytes;    /* what the pool may grow to; 0 where there is none yet, or none at all */
    uint64_t block_bytes;       /* the unit in which it hands out */
    uint64_t reserved_bytes;    /* page-locked at the moment */
    uint64_t allocated_bytes;   /* held by the program, in whole blocks */
    uint64_t requested_bytes;   /* held by the program, as it asked for it */
    uint64_t quarantined_bytes; /* freed, and perhaps still in use by the GPU */
    uint64_t high_water_bytes;  /* the most that was allocated at once */
    uint64_t hits;              /* requests served */
    uint64_t misses;            /* requests that it had no room for, and that went to the driver */
    uint64_t frees;             /* blocks freed */
};

/* Fills the first `bytes` bytes of *stats with the figures of the pool, which belongs to the context that first asked
 * for pinned memory; all are counted since that pool was made. Call it as ai_pool_stats(&stats, sizeof stats): a newer
 * library then fills what an older program knows, and what an older library does not know is 0. Takes no lock and calls
 * no driver.
 *
 * 0, or -1 with errno EINVAL where stats is NULL or has no room for version and filled_bytes. */
int ai_pool_stats(struct ai_pool_stats *stats, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
