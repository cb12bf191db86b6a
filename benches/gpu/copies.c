/* Times copies between pageable memory and the device, each to the end of its stream, or the Async calls alone. Prints
 * one line of JSON, times in nanoseconds. It loads the driver by name, so it needs no CUDA toolkit to build:
 *
 *     cc -O2 -DVIA_DLSYM -I tests/programs -o copies benches/gpu/copies.c -ldl
 *     ./copies rates SIDES MEMORY FOLDER CELL_MS SIZE...
 *     ./copies returns BUSY_MS SIZE...
 *
 * SIDES is turns or one. In turns, the driver's own functions and those that a program is given copy one after the
 * other, the same bytes on the same stream: two processes differ by 10 % in where their memory happens to lie, which is
 * more than what is to be found. Natively the two are the same functions, and the report says so ("hooked": false). With
 * one, only those that a program is given copy.
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

enum { MOST_TURNS = 300, FEWEST_TURNS = 5, RETURN_REPEATS = 3 };

/* Copies timed at once: so many bytes, that a turn takes a fraction of a millisecond, but no more than so many. */
enum { BATCH_BYTES = 4 << 20, LARGEST_BATCH = 32 };

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

/* --- both sides --- */

/* The functions of a copy: the driver's own, or those that a program is given. */
struct Side {
    CUresult (*to_device)(CUdeviceptr, const void *, size_t);
    CUresult (*from_device)(void *, CUdeviceptr, size_t);
    CUresult (*to_device_async)(CUdeviceptr, const void *, size_t, CUstream);
    CUresult (*from_device_async)(void *, CUdeviceptr, size_t, CUstream);
    CUresult (*stream_synchronize)(CUstream);
    CUresult (*context_synchronize)(void);
};

enum { DRIVER, GIVEN, SIDES };
static const char *const TIMES[] = {"driver_ns", "given_ns"};
static struct Side sides[SIDES];
static bool is_hooked;

typedef void *(*Lookup)(void *, const char *);

/* glibc's own dlsym, past whatever is preloaded; until glibc 2.34 it was in a library of its own. */
static Lookup real_dlsym(void)
{
    static const char *const PLACES[][2] = {
        {"libc.so.6", "GLIBC_2.34"}, {"libc.so.6", "GLIBC_2.2.5"}, {"libdl.so.2", "GLIBC_2.2.5"}};

    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        void *library = dlopen(PLACES[i][0], RTLD_LAZY | RTLD_NOLOAD);
        void *found = library == NULL ? NULL : dlvsym(library, "dlsym", PLACES[i][1]);
        if (found != NULL)
            return (Lookup)found;
    }
    fputs("copies: no dlsym of glibc's own\n", stderr);
    exit(1);
}

/* The driver's own function; counts in `differing` where the program is given another one. */
static void *drivers(Lookup look_up, const char *name, void *given, int *differing)
{
    void *found = look_up(driver_library, name);

    if (found == NULL) {
        fprintf(stderr, "copies: the driver has no %s\n", name);
        exit(1);
    }
    *differing += found != given;
    return found;
}

static void find_sides(void)
{
    Lookup look_up = real_dlsym();
    int differing = 0, functions = 0;

#define SIDE(field, name) \
    sides[GIVEN].field = name; \
    *(void **)&sides[DRIVER].field = drivers(look_up, #name, (void *)name, &differing); \
    functions++;
    SIDE(to_device, cuMemcpyHtoD_v2)
    SIDE(from_device, cuMemcpyDtoH_v2)
    SIDE(to_device_async, cuMemcpyHtoDAsync_v2)
    SIDE(from_device_async, cuMemcpyDtoHAsync_v2)
    SIDE(stream_synchronize, cuStreamSynchronize)
    SIDE(context_synchronize, cuCtxSynchronize)
#undef SIDE
    if (differing != 0 && differing != functions) {
        fprintf(stderr, "copies: only %d of %d functions are not the driver's own\n", differing, functions);
        exit(1);
    }
    is_hooked = differing != 0;
}

static void begin(size_t largest)
{
    CUdevice device;
    CUcontext context;
    CUmodule module;

    driver_load();
    find_sides();
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

static void copy(const struct Side *side, enum Direction direction, bool is_async, unsigned char *host, size_t bytes)
{
    if (direction == TO_DEVICE && is_async)
        CHECK(side->to_device_async(device_memory, host, bytes, stream));
    else if (direction == TO_DEVICE)
        CHECK(side->to_device(device_memory, host, bytes));
    else if (is_async)
        CHECK(side->from_device_async(host, device_memory, bytes, stream));
    else
        CHECK(side->from_device(host, device_memory, bytes));
    CHECK(is_async ? side->stream_synchronize(stream) : side->context_synchronize());
}

/* One size of one kind of memory, each way and in each form. */
struct Cell {
    const struct Host *host;
    bool is_absent;
    enum Direction direction;
    bool is_async;
    size_t bytes;
    int batch; /* copies timed at once */
};

static int batch_of(size_t bytes, bool is_absent)
{
    size_t batch = BATCH_BYTES / bytes;

    if (is_absent || batch < 1)
        return 1;
    return batch < LARGEST_BATCH ? (int)batch : LARGEST_BATCH;
}

/* Nanoseconds of one copy of a batch. What is left in the page cache of a file that should be absent is noted. */
static double turn_ns(const struct Cell *cell, const struct Side *side, double *resident)
{
    uint64_t start;

    if (cell->is_absent) {
        double left;
        drop(cell->host, cell->bytes);
        left = percent_resident(cell->host, cell->bytes);
        *resident = left > *resident ? left : *resident;
    }
    start = now_ns();
    for (int i = 0; i < cell->batch; i++)
        copy(side, cell->direction, cell->is_async, cell->host->memory, cell->bytes);
    return (double)(now_ns() - start) / cell->batch;
}

static void print_times(const char *name, const double *times, int count)
{
    printf(", \"%s\": [", name);
    for (int i = 0; i < count; i++)
        printf("%s%.0f", i == 0 ? "" : ", ", times[i]);
    printf("]");
}

static void print_cell(const struct Cell *cell, bool in_turns, uint64_t cell_ns)
{
    static double times[SIDES][MOST_TURNS];
    int first_side = in_turns ? DRIVER : GIVEN, turns = 0;
    uint64_t begun = now_ns();
    double resident = 0;

    if (!cell->is_absent) /* first ones, in which whatever is made once is made */
        for (int side = first_side; side < SIDES; side++)
            copy(&sides[side], cell->direction, cell->is_async, cell->host->memory, cell->bytes);
    for (; turns < MOST_TURNS && (turns < FEWEST_TURNS || now_ns() - begun < cell_ns); turns++)
        for (int i = first_side; i < SIDES; i++) {
            /* Either side comes first in every other turn. */
            int side = in_turns && turns % 2 == 1 ? SIDES - 1 - i : i;
            times[side][turns] = turn_ns(cell, &sides[side], &resident);
        }
    printf("{\"direction\": \"%s\", \"form\": \"%s\", \"bytes\": %zu, \"batch\": %d", DIRECTIONS[cell->direction],
           FORMS[cell->is_async], cell->bytes, cell->batch);
    for (int side = first_side; side < SIDES; side++)
        print_times(TIMES[side], times[side], turns);
    if (cell->is_absent)
        printf(", \"percent_resident_before\": %.1f", resident);
    printf("}");
}

static void rates(char **arguments, size_t *sizes, int count)
{
    bool in_turns = strcmp(arguments[0], "turns") == 0;
    bool is_absent = strcmp(arguments[1], "absent") == 0;
    struct Host host = host_of(arguments[1], arguments[2], sizes[count - 1]);
    uint64_t cell_ns = strtoull(arguments[3], NULL, 10) * 1000000;
    const char *separator = "";

    printf("{\"hooked\": %s, \"cells\": [", is_hooked ? "true" : "false");
    for (int i = 0; i < count; i++)
        for (int direction = TO_DEVICE; direction <= (is_absent ? TO_DEVICE : FROM_DEVICE); direction++)
            for (int form = 0; form < 2; form++) {
                struct Cell cell = {&host, is_absent, direction, form, sizes[i], batch_of(sizes[i], is_absent)};
                printf("%s", separator);
                print_cell(&cell, in_turns, cell_ns);
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

    copy(&sides[GIVEN], TO_DEVICE, true, host.memory, sizes[count - 1]);
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
    int first = is_rates ? 6 : 3, count = argc - first;
    size_t sizes[32];

    if (count < 1 || count > 32) {
        fputs("usage: copies rates SIDES MEMORY FOLDER CELL_MS SIZE... | copies returns BUSY_MS SIZE...\n", stderr);
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
