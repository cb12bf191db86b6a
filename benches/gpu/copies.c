/* Times copies between pageable memory and the device, each to the end of its stream, or the Async calls alone. Prints
 * one line of JSON, times in nanoseconds. It loads the driver by name, so it needs no CUDA toolkit to build:
 *
 *     cc -O2 -DVIA_DLSYM -I tests/programs -o copies benches/gpu/copies.c -ldl
 *     ./copies rates MEMORY FOLDER CELL_MS SIZE...
 *     ./copies returns BUSY_MS SIZE...
 *
 * MEMORY is malloc, resident (a mapped file, all of it in the page cache) or absent (a mapped file, dropped from the page
 * cache before each copy; to the device only). Sizes are in bytes, ascending. */
#include "driver.h"
#include "spin.h"
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST_REPEATS = 400, FEWEST_REPEATS = 3, RETURN_REPEATS = 3 };

enum Direction { TO_DEVICE, FROM_DEVICE };
static const char *const DIRECTIONS[] = {"h2d", "d2h"};
static const char *const FORMS[] = {"sync", "async"};

static CUdeviceptr device_memory;
static CUstream stream;
static CUfunction spin;

#define CHECK(call) check((call), #call)

static void check(CUresult result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "copies: %s gave error %u\n", what, (unsigned)result);
        exit(1);
    }
}

static void need(bool truth, const char *what)
{
    if (!truth) {
        perror(what);
        exit(1);
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void begin(size_t largest)
{
    CUdevice device;
    CUcontext context;
    CUmodule module;

    driver_load();
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, SPIN_MODULE));
    CHECK(cuModuleGetFunction(&spin, module, "spin"));
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAlloc_v2(&device_memory, largest));
}

/* --- the host's side --- */

struct Host {
    unsigned char *memory;
    size_t bytes;
    int file; /* -1: none */
};

static struct Host host_of(const char *kind, const char *folder, size_t bytes)
{
    struct Host host = {NULL, bytes, -1};
    char path[4096];

    if (strcmp(kind, "malloc") == 0) {
        host.memory = malloc(bytes);
        need(host.memory != NULL, "malloc");
    } else {
        snprintf(path, sizeof path, "%s/copies.%d", folder, (int)getpid());
        host.file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
        need(host.file >= 0 && unlink(path) == 0 && ftruncate(host.file, (off_t)bytes) == 0, path);
        host.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, host.file, 0);
        need(host.memory != MAP_FAILED, "mmap");
    }
    for (size_t i = 0; i < bytes; i += 8)
        memcpy(host.memory + i, &i, 8);
    if (host.file >= 0) /* nothing is being written back while copies are timed */
        need(fsync(host.file) == 0, "fsync");
    return host;
}

/* Drops what is to be copied from the page cache, and from the mapping. */
static void drop(const struct Host *host, size_t bytes)
{
    need(madvise(host->memory, bytes, MADV_DONTNEED) == 0, "madvise");
    need(posix_fadvise(host->file, 0, (off_t)bytes, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
}

/* Pages in the page cache, of a hundred; what the drop left is told with the result. */
static double percent_resident(const struct Host *host, size_t bytes)
{
    size_t pages = (bytes + 4095) / 4096, count = 0;
    unsigned char *resident = malloc(pages);

    need(mincore(host->memory, bytes, resident) == 0, "mincore");
    for (size_t i = 0; i < pages; i++)
        count += resident[i] & 1;
    free(resident);
    return 100.0 * (double)count / (double)pages;
}

/* --- rates --- */

static void copy(enum Direction direction, bool is_async, unsigned char *host, size_t bytes)
{
    if (direction == TO_DEVICE && is_async)
        CHECK(cuMemcpyHtoDAsync_v2(device_memory, host, bytes, stream));
    else if (direction == TO_DEVICE)
        CHECK(cuMemcpyHtoD_v2(device_memory, host, bytes));
    else if (is_async)
        CHECK(cuMemcpyDtoHAsync_v2(host, device_memory, bytes, stream));
    else
        CHECK(cuMemcpyDtoH_v2(host, device_memory, bytes));
    CHECK(is_async ? cuStreamSynchronize(stream) : cuCtxSynchronize());
}

static void print_cell(const struct Host *host, bool is_absent, int direction, int form, size_t bytes, uint64_t cell_ns)
{
    uint64_t begun = now_ns();
    double resident = 0;

    if (!is_absent) /* a first one, in which whatever is made once is made */
        copy(direction, form, host->memory, bytes);
    printf("{\"direction\": \"%s\", \"form\": \"%s\", \"bytes\": %zu, \"times_ns\": [", DIRECTIONS[direction],
           FORMS[form], bytes);
    for (int i = 0; i < MOST_REPEATS && (i < FEWEST_REPEATS || now_ns() - begun < cell_ns); i++) {
        uint64_t start;
        if (is_absent) {
            drop(host, bytes);
            resident = percent_resident(host, bytes);
        }
        start = now_ns();
        copy(direction, form, host->memory, bytes);
        printf("%s%llu", i == 0 ? "" : ", ", (unsigned long long)(now_ns() - start));
    }
    printf("]");
    if (is_absent)
        printf(", \"percent_resident_before\": %.1f", resident);
    printf("}");
}

static void rates(char **arguments, size_t *sizes, int count)
{
    bool is_absent = strcmp(arguments[0], "absent") == 0;
    struct Host host = host_of(arguments[0], arguments[1], sizes[count - 1]);
    uint64_t cell_ns = strtoull(arguments[2], NULL, 10) * 1000000;
    const char *separator = "";

    printf("{\"cells\": [");
    for (int i = 0; i < count; i++)
        for (int direction = TO_DEVICE; direction <= (is_absent ? TO_DEVICE : FROM_DEVICE); direction++)
            for (int form = 0; form < 2; form++) {
                printf("%s", separator);
                print_cell(&host, is_absent, direction, form, sizes[i], cell_ns);
                separator = ", ";
            }
    puts("]}");
}

/* --- returns --- */

/* How long an Async call takes to return behind a kernel of that length, 0 for none. */
static uint64_t return_ns(enum Direction direction, unsigned char *host, size_t bytes, uint64_t busy_ns)
{
    void *parameters[] = {&busy_ns};
    uint64_t start, took;

    if (busy_ns > 0)
        CHECK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
    start = now_ns();
    if (direction == TO_DEVICE)
        CHECK(cuMemcpyHtoDAsync_v2(device_memory, host, bytes, stream));
    else
        CHECK(cuMemcpyDtoHAsync_v2(host, device_memory, bytes, stream));
    took = now_ns() - start;
    CHECK(cuStreamSynchronize(stream));
    return took;
}

static void returns(char **arguments, size_t *sizes, int count)
{
    struct Host host = host_of("malloc", NULL, sizes[count - 1]);
    uint64_t busy_ns = strtoull(arguments[0], NULL, 10) * 1000000;

    copy(TO_DEVICE, true, host.memory, sizes[count - 1]);
    printf("{\"busy_ns\": %llu, \"returns\": [", (unsigned long long)busy_ns);
    for (int i = 0; i < count; i++)
        for (int direction = TO_DEVICE; direction <= FROM_DEVICE; direction++) {
            printf("%s{\"direction\": \"%s\", \"bytes\": %zu, \"times_ns\": [", i + direction == 0 ? "" : ", ",
                   DIRECTIONS[direction], sizes[i]);
            for (int j = 0; j < RETURN_REPEATS; j++)
                printf("%s%llu", j == 0 ? "" : ", ",
                       (unsigned long long)return_ns(direction, host.memory, sizes[i], busy_ns));
            printf("]}");
        }
    puts("]}");
}

int main(int argc, char **argv)
{
    bool is_rates = argc > 2 && strcmp(argv[1], "rates") == 0;
    int first = is_rates ? 5 : 3, count = argc - first;
    size_t sizes[32];

    if (count < 1 || count > 32) {
        fputs("usage: copies rates MEMORY FOLDER CELL_MS SIZE... | copies returns BUSY_MS SIZE...\n", stderr);
        return 2;
    }
    for (int i = 0; i < count; i++)
        sizes[i] = strtoull(argv[first + i], NULL, 10);
    begin(sizes[count - 1]);
    if (is_rates)
        rates(argv + 2, sizes, count);
    else
        returns(argv + 2, sizes, count);
    return 0;
}
