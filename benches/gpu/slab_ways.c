/* What page-locking 256 MiB costs the launches of the same process, in the ways a pool could do it.
 *
 *     cc -O2 -pthread -o slab_ways benches/gpu/slab_ways.c -ldl
 *     slab_ways [JSON_FILE [MS_PER_WAY [PREFIX]]]
 *
 * One thread launches an empty kernel and waits for it, without pause; another page-locks 256 MiB, sleeps 20 ms, and
 * takes it back, by each way in turn whose name begins with PREFIX, in rounds, for MS_PER_WAY (1500) at least. Ways:
 *
 *     slabs              cuMemHostAlloc of 16, 16, 32, 64 and 128 MiB, as the pool did at first
 *     alloc S            cuMemHostAlloc of S MiB until there are 256
 *     register slabs     mmap of 256 MiB, every page touched, then cuMemHostRegister of 16, 16, 32, 64 and 128 MiB
 *     register S         the same in steps of S MiB
 *     ... huge           with MADV_HUGEPAGE
 *     ... pause P        after each step a pause of P times what the step took
 *     pool               as the pool does now but for its first slab: shared memory, MADV_HUGEPAGE, every page touched,
 *                        cuMemHostRegister of 4, 12, 16, 32, 64, 64 and 64 MiB, a pause of 3 times what the step took
 *
 * Compared are the launch calls that overlap a call of the driver by the other thread (not those in its pauses alone),
 * and those that overlap the touching. "share" is the launches done between the first step's begin and the last one's
 * end, pauses and all, relative to as long without any of it. Last comes a table, before it what the driver says of such
 * memory, in particular whether copies across the join of two registrations work: where they do not, no block may lie
 * across one; who is charged for the memory, and whether a registration outlives its context. JSON_FILE takes all
 * figures: what each step took, in order, the longest launch calls, and how many calls took how long, by powers of two.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MIB ((size_t)1 << 20)
#define WHOLE (256 * MIB)

enum { MOST_CALLS = 16 << 20, MOST_WINDOWS = 1 << 18, MOST_STEPS = 128, MOST_WAYS = 64, LONGEST = 20, BUCKETS = 32 };
enum { HOST_REGISTER_SUPPORTED = 99, CAN_USE_HOST_POINTER = 91, PORTABLE = 1, ALLOC_FLAGS = 3 };

static const size_t SLAB_MIB[] = {16, 16, 32, 64, 128};
static const size_t POOL_MIB[] = {4, 12, 16, 32, 64, 64, 64};
static const long QUIET_NS = 20 * 1000 * 1000;

static const char NOTHING_MODULE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    ".visible .entry spin(.param .u64 duration_ns)\n"
    "{\n"
    "    ret;\n"
    "}\n";

/* The driver's entry points, their types as in cuda.h with handles as void pointers and device pointers as integers. */
static int (*init)(unsigned);
static int (*device_of)(int *, int);
static int (*attribute)(int *, int, int);
static int (*driver_version)(int *);
static int (*retain)(void **, int);
static int (*reset)(int);
static int (*set_current)(void *);
static int (*load_module)(void **, const void *);
static int (*find_function)(void **, void *, const char *);
static int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                     void **);
static int (*create_stream)(void **, unsigned);
static int (*synchronise)(void *);
static int (*host_alloc)(void **, size_t, unsigned);
static int (*host_free)(void *);
static int (*host_register)(void *, size_t, unsigned);
static int (*host_unregister)(void *);
static int (*host_flags)(unsigned *, void *);
static int (*host_device_pointer)(uint64_t *, void *, unsigned);
static int (*address_range)(uint64_t *, size_t *, uint64_t);
static int (*pointer_attribute)(void *, int, uint64_t);
static int (*device_alloc)(uint64_t *, size_t);
static int (*device_free)(uint64_t);
static int (*to_device)(uint64_t, const void *, size_t);
static int (*to_device_async)(uint64_t, const void *, size_t, void *);
static int (*from_device)(void *, uint64_t, size_t);
static int (*from_device_async)(void *, uint64_t, size_t, void *);
static int (*copy_async)(uint64_t, uint64_t, size_t, void *);
static int (*set_memory)(uint64_t, unsigned char, size_t);

static const struct {
    void *pointer;
    const char *name;
} ENTRIES[] = {
    {&init, "cuInit"},
    {&device_of, "cuDeviceGet"},
    {&attribute, "cuDeviceGetAttribute"},
    {&driver_version, "cuDriverGetVersion"},
    {&retain, "cuDevicePrimaryCtxRetain"},
    {&reset, "cuDevicePrimaryCtxReset_v2"},
    {&set_current, "cuCtxSetCurrent"},
    {&load_module, "cuModuleLoadData"},
    {&find_function, "cuModuleGetFunction"},
    {&launch, "cuLaunchKernel"},
    {&create_stream, "cuStreamCreate"},
    {&synchronise, "cuStreamSynchronize"},
    {&host_alloc, "cuMemHostAlloc"},
    {&host_free, "cuMemFreeHost"},
    {&host_register, "cuMemHostRegister_v2"},
    {&host_unregister, "cuMemHostUnregister"},
    {&host_flags, "cuMemHostGetFlags"},
    {&host_device_pointer, "cuMemHostGetDevicePointer_v2"},
    {&address_range, "cuMemGetAddressRange_v2"},
    {&pointer_attribute, "cuPointerGetAttribute"},
    {&device_alloc, "cuMemAlloc_v2"},
    {&device_free, "cuMemFree_v2"},
    {&to_device, "cuMemcpyHtoD_v2"},
    {&to_device_async, "cuMemcpyHtoDAsync_v2"},
    {&from_device, "cuMemcpyDtoH_v2"},
    {&from_device_async, "cuMemcpyDtoHAsync_v2"},
    {&copy_async, "cuMemcpyAsync"},
    {&set_memory, "cuMemsetD8_v2"},
};

static void *context, *stream, *kernel;
static int device, can_register, same_pointer;
static FILE *json;

static void check(int result, const char *what)
{
    if (result == 0)
        return;
    fprintf(stderr, "slab_ways: %s failed with error %d\n", what, result);
    exit(1);
}

static void begin(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *module;

    if (driver == NULL) {
        fprintf(stderr, "slab_ways: libcuda.so.1 cannot be loaded: %s\n", dlerror());
        exit(1);
    }
    for (size_t i = 0; i < sizeof ENTRIES / sizeof *ENTRIES; i++) {
        /* POSIX has dlsym return functions as data pointers; this is its way to store them. */
        *(void **)ENTRIES[i].pointer = dlsym(driver, ENTRIES[i].name);
        if (*(void **)ENTRIES[i].pointer == NULL)
            fprintf(stderr, "slab_ways: the driver has no %s\n", ENTRIES[i].name), exit(1);
    }
    check(init(0), "cuInit");
    check(device_of(&device, 0), "cuDeviceGet");
    check(attribute(&can_register, HOST_REGISTER_SUPPORTED, device), "cuDeviceGetAttribute");
    check(attribute(&same_pointer, CAN_USE_HOST_POINTER, device), "cuDeviceGetAttribute");
    check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(set_current(context), "cuCtxSetCurrent");
    check(load_module(&module, NOTHING_MODULE), "cuModuleLoadData");
    check(find_function(&kernel, module, "spin"), "cuModuleGetFunction");
    check(create_stream(&stream, 1), "cuStreamCreate");
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
    const struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};

    nanosleep(&time, NULL);
}

static char *mapped(size_t bytes, int is_huge, int is_shared)
{
    int flags = (is_shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS;
    char *all = mmap(NULL, bytes + 2 * MIB, PROT_READ | PROT_WRITE, flags, -1, 0), *start;

    check(all == MAP_FAILED, "mmap");
    start = (char *)(((uintptr_t)all + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1));
    if (start > all)
        munmap(all, (size_t)(start - all));
    munmap(start + bytes, (size_t)(all + 2 * MIB - start));
    /* Refused where the kernel has no huge pages: the pages are small then. */
    madvise(start, bytes, is_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return start;
}

static void touch(char *start, size_t bytes)
{
    if (madvise(start, bytes, MADV_POPULATE_WRITE) == 0)
        return;
    for (size_t at = 0; at < bytes; at += 4096)
        *(volatile char *)(start + at) = 0;
}

/* --- what the driver says --- */

static void say(const char *what, int result, const char *value)
{
    static int count;

    printf("  %-62s %4d  %s\n", what, result, value);
    fprintf(json, "%s{\"what\": \"%s\", \"result\": %d, \"value\": \"%s\"}", count++ ? ", " : "", what, result, value);
}

/* Addresses as distances from `start`, so that two runs compare. */
static void say_of(const char *memory, char *start, size_t asked_at)
{
    static const struct {
        const char *name;
        int number, bytes, is_address;
    } ATTRIBUTES[] = {
        {"CONTEXT", 1, 8, 0},          {"MEMORY_TYPE", 2, 4, 0},    {"DEVICE_POINTER", 3, 8, 1},
        {"HOST_POINTER", 4, 8, 1},     {"SYNC_MEMOPS", 6, 4, 0},    {"BUFFER_ID", 7, 8, 0},
        {"IS_MANAGED", 8, 4, 0},       {"DEVICE_ORDINAL", 9, 4, 0}, {"IS_LEGACY_CUDA_IPC_CAPABLE", 10, 4, 0},
        {"RANGE_START_ADDR", 11, 8, 1}, {"RANGE_SIZE", 12, 8, 0},   {"MAPPED", 13, 4, 0},
        {"ALLOWED_HANDLE_TYPES", 14, 8, 0}, {"ACCESS_FLAGS", 16, 4, 0}, {"MEMPOOL_HANDLE", 17, 8, 0},
    };
    char what[96], value[96];
    uint64_t address = (uint64_t)(uintptr_t)(start + asked_at), base = 0;
    size_t bytes = 0;
    unsigned flags = 0;
    int result;

    for (size_t i = 0; i < sizeof ATTRIBUTES / sizeof *ATTRIBUTES; i++) {
        uint64_t answer = 0;

        result = pointer_attribute(&answer, ATTRIBUTES[i].number, address);
        if (ATTRIBUTES[i].bytes == 4)
            answer &= 0xffffffff;
        snprintf(what, sizeof what, "%s + %zu KiB: %s", memory, asked_at >> 10, ATTRIBUTES[i].name);
        if (result == 0 && ATTRIBUTES[i].is_address)
            snprintf(value, sizeof value, "start %+lld", (long long)(answer - (uint64_t)(uintptr_t)start));
        else
            snprintf(value, sizeof value, "0x%llx", (unsigned long long)answer);
        say(what, result, value);
    }
    result = host_flags(&flags, start + asked_at);
    snprintf(what, sizeof what, "%s + %zu KiB: cuMemHostGetFlags", memory, asked_at >> 10);
    snprintf(value, sizeof value, "%u", flags);
    say(what, result, value);
    result = host_device_pointer(&base, start + asked_at, 0);
    snprintf(what, sizeof what, "%s + %zu KiB: cuMemHostGetDevicePointer", memory, asked_at >> 10);
    snprintf(value, sizeof value, "start %+lld", (long long)(base - (uint64_t)(uintptr_t)start));
    say(what, result, value);
    result = address_range(&base, &bytes, address);
    snprintf(what, sizeof what, "%s + %zu KiB: cuMemGetAddressRange", memory, asked_at >> 10);
    snprintf(value, sizeof value, "start %+lld, %zu bytes", (long long)(base - (uint64_t)(uintptr_t)start), bytes);
    say(what, result, value);
}

/* Copies of 2 MiB whose host side is the end of one registration and the beginning of the next. */
static void say_of_join(char *start, size_t at)
{
    char *host = start + at;
    uint64_t there, host_address = (uint64_t)(uintptr_t)host;
    int results[8], same;

    check(device_alloc(&there, 2 * MIB), "cuMemAlloc");
    memset(host, 0x5a, 2 * MIB);
    results[0] = to_device(there, host, 2 * MIB);
    results[1] = to_device_async(there, host, 2 * MIB, stream);
    results[2] = synchronise(stream);
    memset(host, 0, 2 * MIB);
    results[3] = from_device(host, there, 2 * MIB);
    results[4] = from_device_async(host, there, 2 * MIB, stream);
    results[5] = copy_async(there, host_address, 2 * MIB, stream);
    results[6] = synchronise(stream);
    same = host[0] == 0x5a && host[2 * MIB - 1] == 0x5a;
    say("across the join: cuMemcpyHtoD", results[0], "");
    say("across the join: cuMemcpyHtoDAsync", results[1], "");
    say("across the join: cuMemcpyDtoH", results[3], "");
    say("across the join: cuMemcpyDtoHAsync", results[4], "");
    say("across the join: cuMemcpyAsync, host to device", results[5], "");
    results[6] = results[2] ? results[2] : results[6];
    say("across the join: cuStreamSynchronize", results[6], same ? "the bytes came" : "OTHER BYTES");
    results[7] = set_memory(host_address, 0x33, 2 * MIB);
    same = synchronise(NULL) == 0 && host[0] == 0x33 && host[2 * MIB - 1] == 0x33;
    say("across the join: cuMemsetD8 of the host's memory", results[7], same ? "the bytes came" : "OTHER BYTES");
}

/* What the process and its control group have in memory, in MiB; -1 where nobody says. */
static long resident_mib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long all, resident = -1;

    if (file == NULL)
        return -1;
    if (fscanf(file, "%ld %ld", &all, &resident) != 2)
        resident = -1;
    fclose(file);
    return resident < 0 ? -1 : resident / 256;
}

static long charged_mib(void)
{
    static const char *const FILES[] = {"/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"};
    long long bytes = -1;

    for (size_t i = 0; i < sizeof FILES / sizeof *FILES && bytes < 0; i++) {
        FILE *file = fopen(FILES[i], "r");

        if (file == NULL)
            continue;
        if (fscanf(file, "%lld", &bytes) != 1)
            bytes = -1;
        fclose(file);
    }
    return bytes < 0 ? -1 : (long)(bytes >> 20);
}

/* Whether a forked child can read the byte there, and which it finds. */
static void say_of_fork(const char *what, const volatile char *memory)
{
    char value[64] = "cannot read it";
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        _exit(*memory);
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status))
        snprintf(value, sizeof value, "reads %d", WEXITSTATUS(status));
    say(what, WIFSIGNALED(status) ? WTERMSIG(status) : 0, value);
}

/* The fastest of several copies each way. */
static void say_of_copies(const char *what, void *memory, size_t bytes)
{
    uint64_t there, shortest_ns[2] = {UINT64_MAX, UINT64_MAX};
    char value[64];

    check(device_alloc(&there, bytes), "cuMemAlloc");
    for (int i = 0; i < 20; i++) {
        uint64_t begin_ns = now_ns(), took_ns;

        if (i % 2 == 0)
            check(to_device(there, memory, bytes), "cuMemcpyHtoD");
        else
            check(from_device(memory, there, bytes), "cuMemcpyDtoH");
        took_ns = now_ns() - begin_ns;
        if (took_ns < shortest_ns[i % 2])
            shortest_ns[i % 2] = took_ns;
    }
    check(device_free(there), "cuMemFree");
    snprintf(value, sizeof value, "to the device %.1f GB/s, from it %.1f GB/s", (double)bytes / (double)shortest_ns[0],
             (double)bytes / (double)shortest_ns[1]);
    say(what, 0, value);
}

/* Who pays for 64 MiB of each kind, how fast copies of them are, and what a forked child has of them. */
static void say_of_memory(int is_registered, int is_huge)
{
    static const size_t BYTES = 64 * MIB;
    const char *kind = !is_registered ? "allocated" : is_huge ? "registered huge" : "registered";
    long resident = resident_mib(), charged = charged_mib();
    char what[64], value[96];
    void *memory;

    if (is_registered) {
        memory = mapped(BYTES, is_huge, 0);
        touch(memory, BYTES);
        for (size_t at = 0; at < BYTES; at += 8 * MIB)
            check(host_register((char *)memory + at, 8 * MIB, PORTABLE), "cuMemHostRegister");
    } else {
        check(host_alloc(&memory, BYTES, ALLOC_FLAGS), "cuMemHostAlloc");
    }
    memset(memory, 7, BYTES);
    resident = resident_mib() - resident, charged = charged_mib() - charged;
    snprintf(value, sizeof value, charged_mib() < 0 ? "resident %+ld MiB, control group unknown"
                                                    : "resident %+ld MiB, control group %+ld MiB", resident, charged);
    snprintf(what, sizeof what, "%s 64 MiB", kind);
    say(what, 0, value);
    snprintf(what, sizeof what, "%s 64 MiB: a forked child", kind);
    say_of_fork(what, memory);
    snprintf(what, sizeof what, "%s 8 MiB: copies", kind);
    say_of_copies(what, memory, 8 * MIB);
    if (is_registered) {
        for (size_t at = 0; at < BYTES; at += 8 * MIB)
            check(host_unregister((char *)memory + at), "cuMemHostUnregister");
        munmap(memory, BYTES);
    } else {
        check(host_free(memory), "cuMemFreeHost");
    }
}

static void say_huge_pages(void)
{
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    char value[64] = "unknown";

    if (file != NULL && fgets(value, sizeof value, file) != NULL)
        value[strcspn(value, "\n")] = 0;
    if (file != NULL)
        fclose(file);
    say("transparent huge pages", 0, value);
}

/* Whether a registration outlives the context that made it. To be asked last. */
static void say_of_end(void)
{
    char *memory;
    unsigned flags = 0;

    if (!can_register)
        return;
    printf("\nwhat the driver says of a registration when its context has ended: result, value\n");
    memory = mapped(2 * MIB, 0, 0);
    touch(memory, 2 * MIB);
    check(host_register(memory, 2 * MIB, PORTABLE), "cuMemHostRegister");
    check(reset(device), "cuDevicePrimaryCtxReset");
    check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(set_current(context), "cuCtxSetCurrent");
    say("context ended: cuMemHostGetFlags", host_flags(&flags, memory), "");
    say("context ended: cuMemHostRegister anew", host_register(memory, 2 * MIB, PORTABLE), "");
    say("context ended: cuMemHostUnregister", host_unregister(memory), "");
}

static void say_all(void)
{
    void *allocated;
    char *start, value[32];
    int version;

    check(driver_version(&version), "cuDriverGetVersion");
    printf("what the driver says: result, value\n");
    fprintf(json, "{\"driver\": %d, \"answers\": [", version);
    say_huge_pages();
    say_of_memory(0, 0);
    for (int is_huge = 0; can_register && is_huge < 2; is_huge++)
        say_of_memory(1, is_huge);
    snprintf(value, sizeof value, "%d", can_register);
    say("HOST_REGISTER_SUPPORTED", 0, value);
    snprintf(value, sizeof value, "%d", same_pointer);
    say("CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM", 0, value);
    check(host_alloc(&allocated, 8 * MIB, ALLOC_FLAGS), "cuMemHostAlloc");
    say_of("allocated 8 MiB", allocated, 5 * MIB);
    check(host_free(allocated), "cuMemFreeHost");
    if (can_register) {
        start = mapped(8 * MIB, 0, 0);
        touch(start, 8 * MIB);
        check(host_register(start, 4 * MIB, PORTABLE), "cuMemHostRegister");
        check(host_register(start + 4 * MIB, 4 * MIB, PORTABLE), "cuMemHostRegister");
        say_of("registered 4 + 4 MiB", start, 5 * MIB);
        say_of_join(start, 3 * MIB);
        say("cuMemFreeHost of a registration", host_free(start + 4 * MIB), "");
        say("cuMemHostUnregister inside a registration", host_unregister(start + MIB), "");
        check(host_unregister(start), "cuMemHostUnregister");
        host_unregister(start + 4 * MIB);
        munmap(start, 8 * MIB);
    }
    fflush(stdout);
}

/* --- the ways --- */

struct way {
    char name[40];
    /* Mebibytes of a step, 0 for slabs. */
    size_t step_mib;
    int is_registered, is_huge, is_pools;
    /* How many times what a step took the pause after it is. */
    unsigned pauses;
};

/* What the second thread is at. */
enum phase { QUIET, TOUCH, RESERVE, TAKE_BACK, UNMAP, PHASES };

static const char *const PHASE_NAMES[PHASES] = {"quiet", "touch", "reserve", "take_back", "unmap"};

struct window {
    int way;
    enum phase phase;
    uint64_t begin_ns, end_ns;
};

/* From the first step's begin to the last one's end, and which pauses lie between. */
struct round_of {
    int way;
    enum phase phase;
    uint64_t begin_ns, end_ns;
};

static struct way ways[MOST_WAYS];
static int way_count;
static struct window *windows;
static struct round_of *rounds;
static size_t window_count, round_count;
static uint64_t way_ns = 1500ull * 1000 * 1000;
static const char *prefix = "";

static void add(const struct way *way)
{
    if (strncmp(way->name, prefix, strlen(prefix)) == 0)
        ways[way_count++] = *way;
}

static void add_way(int is_registered, size_t step_mib, int is_huge, unsigned pauses)
{
    struct way way = {"", step_mib, is_registered, is_huge, 0, pauses};
    char step[24] = "slabs", *at = way.name;

    if (step_mib > 0)
        snprintf(step, sizeof step, "%zu", step_mib);
    at += sprintf(at, "%s", is_registered ? "register " : step_mib > 0 ? "alloc " : "");
    at += sprintf(at, "%s%s", step, is_huge ? " huge" : "");
    if (pauses > 0)
        sprintf(at, " pause %u", pauses);
    add(&way);
}

static void add_ways(void)
{
    static const size_t STEPS_MIB[] = {16, 8, 4, 2};
    static const unsigned PAUSES[] = {0, 1, 3};

    add_way(0, 0, 0, 0);
    for (int step = 0; step < 4; step++)
        for (int pause = 0; pause < 3; pause++)
            add_way(0, STEPS_MIB[step], 0, PAUSES[pause]);
    if (!can_register)
        return;
    for (int is_huge = 0; is_huge < 2; is_huge++) {
        add_way(1, 0, is_huge, 0);
        for (int step = 0; step < 4; step++)
            for (int pause = 0; pause < 3; pause++)
                if (is_huge || PAUSES[pause] != 1)
                    add_way(1, STEPS_MIB[step], is_huge, PAUSES[pause]);
    }
    add(&(struct way){"pool", 0, 1, 1, 1, 3});
}

static int steps_of(const struct way *way, size_t *steps)
{
    const size_t *slabs = way->is_pools ? POOL_MIB : SLAB_MIB;
    int slab_count = way->is_pools ? sizeof POOL_MIB / sizeof *POOL_MIB : sizeof SLAB_MIB / sizeof *SLAB_MIB;
    int count = way->step_mib == 0 ? slab_count : (int)(WHOLE / MIB / way->step_mib);

    for (int i = 0; i < count; i++)
        steps[i] = (way->step_mib == 0 ? slabs[i] : way->step_mib) * MIB;
    return count;
}

static uint64_t add_window(int way, enum phase phase, uint64_t begin_ns)
{
    uint64_t end_ns = now_ns();

    if (window_count < MOST_WINDOWS)
        windows[window_count++] = (struct window){way, phase, begin_ns, end_ns};
    return end_ns - begin_ns;
}

static void add_round(int way, enum phase phase, uint64_t begin_ns, uint64_t end_ns)
{
    if (round_count < MOST_WINDOWS)
        rounds[round_count++] = (struct round_of){way, phase, begin_ns, end_ns};
}

static void be_quiet(int way)
{
    uint64_t begin_ns = now_ns();

    sleep_ns(QUIET_NS);
    add_window(way, QUIET, begin_ns);
    add_round(way, QUIET, begin_ns, now_ns());
}

static uint64_t step(int index, char **memory, size_t bytes, enum phase phase)
{
    const struct way *way = &ways[index];
    uint64_t begin_ns = now_ns();
    int result;

    if (phase == TAKE_BACK)
        result = way->is_registered ? host_unregister(*memory) : host_free(*memory);
    else if (way->is_registered)
        result = host_register(*memory, bytes, PORTABLE);
    else
        result = host_alloc((void **)memory, bytes, ALLOC_FLAGS);
    check(result, way->name);
    return add_window(index, phase, begin_ns);
}

static void all_steps(int index, char **memory, const size_t *bytes, int count, enum phase phase)
{
    uint64_t begin_ns = now_ns(), end_ns = begin_ns;

    for (int i = 0; i < count; i++) {
        uint64_t took_ns = step(index, &memory[i], bytes[i], phase);

        end_ns = now_ns();
        if (i + 1 < count && ways[index].pauses > 0)
            sleep_ns(took_ns * ways[index].pauses);
    }
    add_round(index, phase, begin_ns, end_ns);
}

static void one_round(int index)
{
    const struct way *way = &ways[index];
    size_t bytes[MOST_STEPS];
    char *memory[MOST_STEPS], *start = NULL, *at;
    int count = steps_of(way, bytes);
    uint64_t begin_ns;

    be_quiet(index);
    if (way->is_registered) {
        at = start = mapped(WHOLE, way->is_huge, way->is_pools);
        begin_ns = now_ns();
        for (size_t done = 0; done < WHOLE; done += 2 * MIB)
            touch(start + done, 2 * MIB);
        add_window(index, TOUCH, begin_ns);
        add_round(index, TOUCH, begin_ns, now_ns());
        for (int i = 0; i < count; at += bytes[i++])
            memory[i] = at;
    }
    all_steps(index, memory, bytes, count, RESERVE);
    be_quiet(index);
    all_steps(index, memory, bytes, count, TAKE_BACK);
    if (way->is_registered) {
        begin_ns = now_ns();
        munmap(start, WHOLE);
        add_window(index, UNMAP, begin_ns);
        add_round(index, UNMAP, begin_ns, now_ns());
    }
}

/* --- the launches --- */

static volatile int stop;
static uint64_t *begin_ns, *chosen_ns;
static uint32_t *launch_ns, *wait_ns;
static size_t call_count;

static void *reserve_all(void *unused)
{
    check(set_current(context), "cuCtxSetCurrent");
    for (int way = 0; way < way_count; way++) {
        uint64_t since_ns = now_ns();

        do
            one_round(way);
        while (now_ns() - since_ns < way_ns);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%d of %d ways%s", way + 1, way_count, way + 1 == way_count ? "\n" : "");
    }
    stop = 1;
    return unused;
}

/* Touched here: a page fault beside what changes the address space waits for it. */
static void *touched(size_t bytes)
{
    void *memory = malloc(bytes);

    check(memory == NULL, "malloc");
    return memset(memory, 1, bytes);
}

static uint32_t below_32_bits(uint64_t ns)
{
    return ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void launch_all(void)
{
    uint64_t nothing = 0;
    void *parameters[] = {&nothing};
    pthread_t other;

    begin_ns = touched(MOST_CALLS * sizeof *begin_ns);
    chosen_ns = touched(MOST_CALLS / 4 * sizeof *chosen_ns);
    launch_ns = touched(MOST_CALLS * sizeof *launch_ns);
    wait_ns = touched(MOST_CALLS * sizeof *wait_ns);
    windows = touched(MOST_WINDOWS * sizeof *windows);
    rounds = touched(MOST_WINDOWS * sizeof *rounds);
    check(pthread_create(&other, NULL, reserve_all, NULL), "pthread_create");
    while (!stop && call_count < MOST_CALLS) {
        uint64_t from_ns = now_ns(), launched_ns;

        check(launch(kernel, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL), "cuLaunchKernel");
        launched_ns = now_ns();
        check(synchronise(stream), "cuStreamSynchronize");
        begin_ns[call_count] = from_ns;
        launch_ns[call_count] = below_32_bits(launched_ns - from_ns);
        wait_ns[call_count] = below_32_bits(now_ns() - launched_ns);
        call_count++;
    }
    if (!stop)
        fprintf(stderr, "slab_ways: more launches than there is room for; the last ways have too few\n");
    pthread_join(other, NULL);
}

/* --- the figures --- */

struct figures {
    size_t calls, steps, rounds, launches_in_rounds;
    uint64_t p50_ns, p999_ns, max_ns, longest_wait_ns, longest_step_ns, steps_ns, rounds_ns;
};

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static uint64_t nearest_rank(size_t count, unsigned per_10000)
{
    return count == 0 ? 0 : chosen_ns[(count * per_10000 + 9999) / 10000 - 1];
}

/* The first call that ends after `ns`. */
static size_t first_call_after(uint64_t ns)
{
    size_t low = 0, high = call_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (begin_ns[middle] + launch_ns[middle] <= ns)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Sorts the launch calls that overlap a window of the phase into `chosen_ns`, each once. */
static struct figures figures_of(int way, enum phase phase)
{
    struct figures found = {0};
    size_t next = 0;

    for (size_t i = 0; i < window_count; i++) {
        const struct window *window = &windows[i];
        uint64_t took_ns = window->end_ns - window->begin_ns;

        if (window->way != way || window->phase != phase)
            continue;
        found.steps++;
        found.steps_ns += took_ns;
        if (took_ns > found.longest_step_ns)
            found.longest_step_ns = took_ns;
        size_t call = first_call_after(window->begin_ns);
        for (call = call < next ? next : call; call < call_count && begin_ns[call] < window->end_ns; call++) {
            if (found.calls < MOST_CALLS / 4)
                chosen_ns[found.calls++] = launch_ns[call];
            if (wait_ns[call] > found.longest_wait_ns)
                found.longest_wait_ns = wait_ns[call];
            next = call + 1;
        }
    }
    for (size_t i = 0; i < round_count; i++) {
        if (rounds[i].way != way || rounds[i].phase != phase)
            continue;
        found.rounds++;
        found.rounds_ns += rounds[i].end_ns - rounds[i].begin_ns;
        found.launches_in_rounds += first_call_after(rounds[i].end_ns) - first_call_after(rounds[i].begin_ns);
    }
    qsort(chosen_ns, found.calls, sizeof *chosen_ns, ascending);
    found.p50_ns = nearest_rank(found.calls, 5000);
    found.p999_ns = nearest_rank(found.calls, 9990);
    found.max_ns = nearest_rank(found.calls, 10000);
    return found;
}

/* Uses what figures_of has left in `chosen_ns`. */
static void write_figures(int way, enum phase phase, const struct figures *found)
{
    size_t buckets[BUCKETS] = {0}, first = found->calls > LONGEST ? found->calls - LONGEST : 0;
    const char *comma = "";

    fprintf(json, "%s\"%s\": {\"calls\": %zu, \"p50_ns\": %llu, \"p999_ns\": %llu, \"max_ns\": %llu, ",
            phase == QUIET ? "" : ", ", PHASE_NAMES[phase], found->calls, (unsigned long long)found->p50_ns,
            (unsigned long long)found->p999_ns, (unsigned long long)found->max_ns);
    fprintf(json, "\"longest_wait_ns\": %llu, \"rounds\": %zu, \"rounds_ns\": %llu, \"launches_in_rounds\": %zu, ",
            (unsigned long long)found->longest_wait_ns, found->rounds, (unsigned long long)found->rounds_ns,
            found->launches_in_rounds);
    fprintf(json, "\"longest_ns\": [");
    for (size_t i = first; i < found->calls; i++)
        fprintf(json, "%s%llu", i > first ? ", " : "", (unsigned long long)chosen_ns[i]);
    for (size_t i = 0; i < found->calls; i++)
        buckets[chosen_ns[i] == 0 ? 0 : 63 - __builtin_clzll(chosen_ns[i])]++;
    fprintf(json, "], \"calls_by_log2_ns\": [");
    for (int i = 0; i < BUCKETS; i++)
        fprintf(json, "%s%zu", i > 0 ? ", " : "", buckets[i]);
    fprintf(json, "], \"steps_ns\": [");
    for (size_t i = 0; i < window_count; i++)
        if (windows[i].way == way && windows[i].phase == phase) {
            fprintf(json, "%s%llu", comma, (unsigned long long)(windows[i].end_ns - windows[i].begin_ns));
            comma = ", ";
        }
    fprintf(json, "]}");
}

static double share(const struct figures *found, const struct figures *quiet)
{
    if (found->rounds_ns == 0 || quiet->launches_in_rounds == 0)
        return 0;
    return (double)found->launches_in_rounds / (double)found->rounds_ns /
           ((double)quiet->launches_in_rounds / (double)quiet->rounds_ns);
}

static void print_side(const struct figures *found, const struct figures *quiet)
{
    printf(" | %8zu %9.1f %9.1f %9.1f %8.2f %8.1f %5.0f%%", found->calls, (double)found->p999_ns / 1e3,
           (double)found->max_ns / 1e3, (double)found->longest_wait_ns / 1e3, (double)found->longest_step_ns / 1e6,
           (double)found->rounds_ns / 1e6 / (double)(found->rounds ? found->rounds : 1), 100 * share(found, quiet));
}

static void print_all(void)
{
    static const char SIDE[] = " |    calls   p99.9us     maxus  sync maxus  step ms   all ms  share";
    struct figures found[PHASES];

    printf("\nlaunch calls beside 256 MiB being ...\n");
    printf("%-24s | %-63s | %-63s | touched, unmapped\n", "", "page-locked", "taken back");
    printf("%-24s%s%s |  max us      ms   max us      ms\n", "way", SIDE, SIDE);
    for (int way = 0; way < way_count; way++) {
        fprintf(json, "%s\"%s\": {", way > 0 ? ", " : "", ways[way].name);
        for (int phase = 0; phase < PHASES; phase++) {
            found[phase] = figures_of(way, phase);
            write_figures(way, phase, &found[phase]);
        }
        fprintf(json, "}");
        printf("%-24s", ways[way].name);
        print_side(&found[RESERVE], &found[QUIET]);
        print_side(&found[TAKE_BACK], &found[QUIET]);
        for (int phase = TOUCH; phase <= UNMAP; phase += UNMAP - TOUCH)
            if (ways[way].is_registered)
                printf("%s%7.1f %7.1f", phase == TOUCH ? " | " : "  ", (double)found[phase].max_ns / 1e3,
                       (double)found[phase].rounds_ns / 1e6 / (double)(found[phase].rounds ? found[phase].rounds : 1));
        putchar('\n');
    }
    fprintf(json, "}}\n");
}

int main(int argc, char **argv)
{
    if (argc > 4 || (argc > 2 && atoi(argv[2]) <= 0)) {
        fprintf(stderr, "usage: slab_ways [JSON_FILE [MS_PER_WAY [PREFIX]]]\n");
        return 2;
    }
    json = fopen(argc > 1 ? argv[1] : "/dev/null", "w");
    check(json == NULL, "opening the JSON file");
    if (argc > 2)
        way_ns = (uint64_t)atoi(argv[2]) * 1000000;
    if (argc > 3)
        prefix = argv[3];
    begin();
    say_all();
    add_ways();
    launch_all();
    say_of_end();
    fprintf(json, "], \"ways\": {");
    print_all();
    return fclose(json) != 0;
}
