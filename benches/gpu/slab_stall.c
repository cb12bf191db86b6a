/* Two processes for slab_stall.py. One launches small kernels one after the other and notes what each call took:
 *
 *     slab_stall launch
 *
 * says "ready", and takes lines "NAME BEGIN END" on stdin, windows of CLOCK_MONOTONIC in nanoseconds; at the end of its
 * input, in order of time, it prints one line of JSON: for each name, figures of the calls that overlap one of its windows. The other
 *
 *     slab_stall reserve WAY REPEATS
 *
 * allocates 256 MiB "once", in "slabs" of the pool's sizes, or in slabs with "pauses" of 20 ms between them, frees them, and
 * prints such lines: WAY for the reservations, WAY_free for the frees, and "none" for as long without either.
 *
 *     slab_stall own WAY REPEATS
 *
 * does both in one process, reserving on a second thread as the pool's does, and prints the figures.
 *
 *     slab_stall alone MS
 *
 * launches for so long and reserves nothing itself; the figures are of "none". A pool in it may grow meanwhile.
 *
 *     cc -O2 -pthread -o slab_stall benches/gpu/slab_stall.c -ldl
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_CALLS = 8 << 20, MOST_WINDOWS = 4096, NAME_BYTES = 24, SLABS = 7 };

static const size_t MIB = 1 << 20;
static const size_t SLAB_MIB[SLABS] = {4, 12, 16, 32, 64, 64, 64};
static const long QUIET_NS = 100 * 1000 * 1000, PAUSE_NS = 20 * 1000 * 1000;

static const char NOTHING_MODULE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    ".visible .entry spin(.param .u64 duration_ns)\n"
    "{\n"
    "    ret;\n"
    "}\n";

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

static void *context;

static void check(int result, const char *what)
{
    if (result == 0)
        return;
    fprintf(stderr, "slab_stall: %s failed with error %d\n", what, result);
    exit(1);
}

static void *symbol(void *driver, const char *name)
{
    void *found = dlsym(driver, name);

    if (found == NULL) {
        fprintf(stderr, "slab_stall: the driver has no %s\n", name);
        exit(1);
    }
    return found;
}

static void begin(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    int device;

    if (driver == NULL) {
        fprintf(stderr, "slab_stall: libcuda.so.1 cannot be loaded: %s\n", dlerror());
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
    check(init(0), "cuInit");
    check(device_of(&device, 0), "cuDeviceGet");
    check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(set_current(context), "cuCtxSetCurrent");
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_ns(long ns)
{
    const struct timespec time = {ns / 1000000000, ns % 1000000000};

    nanosleep(&time, NULL);
}

/* --- launch --- */

struct window {
    char name[NAME_BYTES];
    uint64_t begin_ns, end_ns;
};

static struct window windows[MOST_WINDOWS];
static int window_count;
static volatile int stop;
static uint64_t *begin_ns, *took_ns, *chosen_ns;
static size_t call_count;

static void add_window(const char *name, uint64_t from_ns, uint64_t to_ns)
{
    struct window *window = &windows[window_count];

    if (window_count == MOST_WINDOWS)
        return;
    snprintf(window->name, sizeof window->name, "%s", name);
    window->begin_ns = from_ns;
    window->end_ns = to_ns;
    window_count++;
}

static void *read_windows(void *unused)
{
    unsigned long long from, to;
    char name[NAME_BYTES];

    while (scanf("%23s %llu %llu", name, &from, &to) == 3)
        add_window(name, from, to);
    stop = 1;
    return unused;
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

/* Whether a call overlaps a window of that name; calls and windows both come in order of time, so the search goes on
 * where the last one ended. */
static int is_in(const char *name, size_t call, int *at)
{
    uint64_t end_ns = begin_ns[call] + took_ns[call];

    while (*at < window_count && windows[*at].end_ns <= begin_ns[call])
        (*at)++;
    for (int i = *at; i < window_count && windows[i].begin_ns < end_ns; i++)
        if (strcmp(windows[i].name, name) == 0)
            return 1;
    return 0;
}

static unsigned long long nearest_rank(size_t count, unsigned per_10000)
{
    return count == 0 ? 0 : chosen_ns[(count * per_10000 + 9999) / 10000 - 1];
}

static void print_figures(const char *name)
{
    size_t count = 0;
    int at = 0;

    for (size_t call = 0; call < call_count; call++)
        if (is_in(name, call, &at))
            chosen_ns[count++] = took_ns[call];
    qsort(chosen_ns, count, sizeof *chosen_ns, ascending);
    printf("\"%s\": {\"calls\": %zu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, \"max_ns\": %llu}", name,
           count, nearest_rank(count, 5000), nearest_rank(count, 9900), nearest_rank(count, 9990),
           nearest_rank(count, 10000));
}

static int is_first_of_its_name(int window)
{
    for (int i = 0; i < window; i++)
        if (strcmp(windows[i].name, windows[window].name) == 0)
            return 0;
    return 1;
}

/* Launches until `meanwhile` has set `stop`, and prints the figures by its windows. */
static void launch_and_tell(void *(*meanwhile)(void *))
{
    uint64_t nothing = 0;
    void *module, *kernel, *stream, *parameters[] = {&nothing};
    pthread_t other;

    begin_ns = malloc(MOST_CALLS * sizeof *begin_ns);
    took_ns = malloc(MOST_CALLS * sizeof *took_ns);
    chosen_ns = malloc(MOST_CALLS * sizeof *chosen_ns);
    check(begin_ns == NULL || took_ns == NULL || chosen_ns == NULL, "malloc");
    check(load_module(&module, NOTHING_MODULE), "cuModuleLoadData");
    check(find_function(&kernel, module, "spin"), "cuModuleGetFunction");
    check(create_stream(&stream, 1), "cuStreamCreate");
    pthread_create(&other, NULL, meanwhile, NULL);
    puts("ready"), fflush(stdout);
    while (!stop && call_count < MOST_CALLS) {
        begin_ns[call_count] = now_ns();
        check(launch(kernel, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL), "cuLaunchKernel");
        took_ns[call_count] = now_ns() - begin_ns[call_count];
        call_count++;
        check(synchronise(stream), "cuStreamSynchronize");
    }
    pthread_join(other, NULL);
    printf("{\"all_calls\": %zu", call_count);
    for (int i = 0; i < window_count; i++)
        if (is_first_of_its_name(i))
            printf(", "), print_figures(windows[i].name);
    puts("}");
}

/* --- reserve --- */

static const char *way;
static int repeats, is_own;

/* For the launching process: on stdout, or here and now where we are that. */
static void tell_window(const char *name, const char *what, uint64_t from_ns)
{
    uint64_t to_ns = now_ns();
    char whole[NAME_BYTES];

    snprintf(whole, sizeof whole, "%s%s", name, what);
    if (is_own)
        add_window(whole, from_ns, to_ns);
    else
        printf("%s %llu %llu\n", whole, (unsigned long long)from_ns, (unsigned long long)to_ns);
}

static void reserve(void)
{
    int is_once = strcmp(way, "once") == 0, slabs = is_once ? 1 : SLABS;
    long pause_ns = strcmp(way, "pauses") == 0 ? PAUSE_NS : 0;
    void *memory[SLABS];
    uint64_t from_ns;

    from_ns = now_ns();
    sleep_ns(QUIET_NS);
    tell_window("none", "", from_ns);
    for (int i = 0; i < slabs; i++) {
        if (i > 0 && pause_ns > 0)
            sleep_ns(pause_ns);
        from_ns = now_ns();
        check(host_alloc(&memory[i], (is_once ? 256 : SLAB_MIB[i]) * MIB, 3), "cuMemHostAlloc");
        tell_window(way, "", from_ns);
    }
    sleep_ns(QUIET_NS / 10);
    for (int i = slabs; i-- > 0;) {
        from_ns = now_ns();
        check(host_free(memory[i]), "cuMemFreeHost");
        tell_window(way, "_free", from_ns);
    }
}

static void *reserve_all(void *unused)
{
    check(set_current(context), "cuCtxSetCurrent");
    for (int left = repeats; left > 0; left--)
        reserve();
    stop = 1;
    return unused;
}

static void *wait_a_while(void *unused)
{
    uint64_t from_ns = now_ns();

    sleep_ns((long)repeats * 1000 * 1000);
    add_window("none", from_ns, now_ns());
    stop = 1;
    return unused;
}

int main(int argc, char **argv)
{
    const char *role = argc > 1 ? argv[1] : "";

    way = argc > 2 ? argv[2] : "";
    repeats = argc > 2 ? atoi(argv[argc - 1]) : 0;
    is_own = strcmp(role, "own") == 0;
    if (argc == 2 && strcmp(role, "launch") == 0) {
        begin();
        launch_and_tell(read_windows);
    } else if (argc == 3 && strcmp(role, "alone") == 0) {
        begin();
        launch_and_tell(wait_a_while);
    } else if (argc == 4 && is_own) {
        begin();
        launch_and_tell(reserve_all);
    } else if (argc == 4 && strcmp(role, "reserve") == 0) {
        begin();
        reserve_all(NULL);
    } else {
        fprintf(stderr, "usage: slab_stall launch | alone MS | reserve WAY REPEATS | own WAY REPEATS (WAY: once, slabs, pauses)\n");
        return 2;
    }
    return 0;
}
