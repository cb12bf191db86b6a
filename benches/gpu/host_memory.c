/* Times cuMemHostAlloc and cuMemFreeHost by size, call by call, and while a kernel occupies the GPU. Prints one line of
 * JSON, times in nanoseconds. A pool that grows in the background is measured as a program finds it that has used such
 * memory for a while: some allocations of each size, a rest in which the pool may grow for them, then the measurement. What
 * the very first allocation costs stands apart. It loads the driver by name, so it needs no CUDA toolkit to build:
 *
 *     cc -O2 -o host_memory benches/gpu/host_memory.c -ldl && ./host_memory
 */
#define _POSIX_C_SOURCE 199309L
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "spin.h"

enum { MOST_REPEATS = 1000, FEWEST_REPEATS = 7, FIRST_PAIRS = 4, WARM_UP_PAIRS = 10, LOOP_PAIRS = 1000, BUSY_REPEATS = 5 };

/* How long nobody asks for anything between the first pairs of a size and those that are measured. */
static const struct timespec REST = {0, 300 * 1000 * 1000};
static const uint64_t TIME_PER_SIZE_NS = 400u * 1000 * 1000;
static const uint64_t BUSY_NS = 200u * 1000 * 1000;
static const size_t SIZES_BYTES[] = {4u << 10, 64u << 10, 1u << 20, 4u << 20, 16u << 20, 64u << 20};

/* The driver's entry points, their types as in cuda.h with handles as void pointers. */
static int (*init)(unsigned);
static int (*device_of)(int *, int);
static int (*retain)(void **, int);
static int (*set_current)(void *);
static int (*load_module)(void **, const void *);
static int (*find_function)(void **, void *, const char *);
static int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                     void **);
static int (*create_stream)(void **, unsigned);
static int (*synchronise)(void *);
static int (*host_alloc)(void **, size_t, unsigned);
static int (*host_free)(void *);

static void check(int result, const char *what)
{
    if (result == 0)
        return;
    fprintf(stderr, "host_memory: %s failed with error %d\n", what, result);
    exit(1);
}

static void *symbol(void *driver, const char *name)
{
    void *found = dlsym(driver, name);

    if (found == NULL) {
        fprintf(stderr, "host_memory: the driver has no %s\n", name);
        exit(1);
    }
    return found;
}

static void load_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);

    if (driver == NULL) {
        fprintf(stderr, "host_memory: libcuda.so.1 cannot be loaded: %s\n", dlerror());
        exit(1);
    }
    /* POSIX has dlsym return functions as data pointers; this is its way to store them. */
    *(void **)&init = symbol(driver, "cuInit");
    *(void **)&device_of = symbol(driver, "cuDeviceGet");
    *(void **)&retain = symbol(driver, "cuDevicePrimaryCtxRetain");
    *(void **)&set_current = symbol(driver, "cuCtxSetCurrent");
    *(void **)&load_module = symbol(driver, "cuModuleLoadData");
    *(void **)&find_function = symbol(driver, "cuModuleGetFunction");
    *(void **)&launch = symbol(driver, "cuLaunchKernel");
    *(void **)&create_stream = symbol(driver, "cuStreamCreate");
    *(void **)&synchronise = symbol(driver, "cuStreamSynchronize");
    *(void **)&host_alloc = symbol(driver, "cuMemHostAlloc");
    *(void **)&host_free = symbol(driver, "cuMemFreeHost");
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

/* Prints the median and the 99th percentile (nearest rank) as two members of a JSON object. */
static void print_percentiles(const char *name, uint64_t *times_ns, int count)
{
    qsort(times_ns, (size_t)count, sizeof *times_ns, ascending);
    printf("\"%s_p50_ns\": %llu, \"%s_p99_ns\": %llu", name, (unsigned long long)times_ns[(count - 1) / 2], name,
           (unsigned long long)times_ns[(count * 99 + 99) / 100 - 1]);
}

static void pair(size_t bytes, uint64_t *alloc_ns, uint64_t *free_ns)
{
    void *memory;
    uint64_t begin = now_ns(), allocated;

    check(host_alloc(&memory, bytes, 0), "cuMemHostAlloc");
    allocated = now_ns();
    *alloc_ns = allocated - begin;
    begin = now_ns();
    check(host_free(memory), "cuMemFreeHost");
    *free_ns = now_ns() - begin;
}

static void measure_size(size_t bytes)
{
    static uint64_t alloc_ns[MOST_REPEATS], free_ns[MOST_REPEATS];
    uint64_t begin, loop_begin;
    int done = 0, loop_pairs = 0;

    for (int i = 0; i < FIRST_PAIRS; i++)
        pair(bytes, &alloc_ns[0], &free_ns[0]);
    nanosleep(&REST, NULL);
    for (int i = 0; i < WARM_UP_PAIRS; i++)
        pair(bytes, &alloc_ns[0], &free_ns[0]);
    begin = now_ns();
    while (done < MOST_REPEATS && (done < FEWEST_REPEATS || now_ns() - begin < TIME_PER_SIZE_NS)) {
        pair(bytes, &alloc_ns[done], &free_ns[done]);
        done++;
    }
    printf("{\"bytes\": %zu, \"repeats\": %d, ", bytes, done);
    print_percentiles("alloc", alloc_ns, done);
    printf(", ");
    print_percentiles("free", free_ns, done);

    /* Without a clock between the calls, whose reading costs about as much as a pool's answer. */
    loop_begin = now_ns();
    while (loop_pairs < LOOP_PAIRS && (loop_pairs % 10 != 0 || now_ns() - loop_begin < TIME_PER_SIZE_NS)) {
        void *memory;

        check(host_alloc(&memory, bytes, 0), "cuMemHostAlloc");
        check(host_free(memory), "cuMemFreeHost");
        loop_pairs++;
    }
    printf(", \"pair_mean_ns\": %.1f}", (double)(now_ns() - loop_begin) / loop_pairs);
}

/* What an allocation and a free cost while a kernel runs for BUSY_NS. */
static void measure_busy(void *spin, void *stream)
{
    uint64_t alloc_ns[BUSY_REPEATS], free_ns[BUSY_REPEATS], duration_ns = BUSY_NS;
    void *parameters[] = {&duration_ns};

    for (int i = 0; i < BUSY_REPEATS; i++) {
        check(launch(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL), "cuLaunchKernel");
        pair(1u << 20, &alloc_ns[i], &free_ns[i]);
        check(synchronise(stream), "cuStreamSynchronize");
    }
    printf("{\"kernel_ns\": %llu, \"bytes\": %u, ", (unsigned long long)BUSY_NS, 1u << 20);
    print_percentiles("alloc", alloc_ns, BUSY_REPEATS);
    printf(", ");
    print_percentiles("free", free_ns, BUSY_REPEATS);
    printf("}");
}

static double clock_cost_ns(void)
{
    enum { READINGS = 100000 };
    uint64_t begin = now_ns(), last = begin;

    for (int i = 0; i < READINGS; i++)
        last = now_ns();
    return (double)(last - begin) / READINGS;
}

int main(void)
{
    uint64_t first_alloc_ns, first_free_ns;
    void *context, *module, *spin, *stream;
    int device;

    load_driver();
    check(init(0), "cuInit");
    check(device_of(&device, 0), "cuDeviceGet");
    check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(set_current(context), "cuCtxSetCurrent");
    check(load_module(&module, SPIN_MODULE), "cuModuleLoadData");
    check(find_function(&spin, module, "spin"), "cuModuleGetFunction");
    check(create_stream(&stream, 1), "cuStreamCreate");

    pair(4096, &first_alloc_ns, &first_free_ns);
    printf("{\"clock_ns\": %.1f, \"first_alloc_ns\": %llu, \"first_free_ns\": %llu, \"sizes\": [", clock_cost_ns(),
           (unsigned long long)first_alloc_ns, (unsigned long long)first_free_ns);
    for (size_t i = 0; i < sizeof SIZES_BYTES / sizeof *SIZES_BYTES; i++) {
        printf(i == 0 ? "" : ", ");
        measure_size(SIZES_BYTES[i]);
    }
    printf("], \"busy\": ");
    measure_busy(spin, stream);
    puts("}");
    return 0;
}
