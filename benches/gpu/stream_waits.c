/* What it costs to have the GPU wait for a word of memory, and what a stream that waits does to another process.
 *
 *     cc -O2 -pthread -o stream_waits benches/gpu/stream_waits.c -ldl
 *     stream_waits
 *
 * prints lines for people. Two processes, each with a context of its own; kernels that last so many microseconds. All waits are
 * cuStreamWaitValue32 with GEQ and writes cuStreamWriteValue32, both in the second version, or both in one cuStreamBatchMemOp.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NON_BLOCKING = 1, PORTABLE_DEVICEMAP = 3, ROUNDS = 300, MOST_LAUNCHES = 20000 };
enum { OPEN = 0, HOLD = 8, DONE = 16, WORDS_BYTES = 4096 };

static const char SPIN_MODULE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    ".visible .entry spin(.param .u64 duration_ns)\n"
    "{\n"
    "    .reg .u64 %duration, %begin, %now, %passed;\n"
    "    .reg .pred %early;\n"
    "    ld.param.u64 %duration, [duration_ns];\n"
    "    mov.u64 %begin, %globaltimer;\n"
    "again:\n"
    "    mov.u64 %now, %globaltimer;\n"
    "    sub.u64 %passed, %now, %begin;\n"
    "    setp.lt.u64 %early, %passed, %duration;\n"
    "    @%early bra again;\n"
    "    ret;\n"
    "}\n";

/* The driver's entry points, their types as in cuda.h with handles as void pointers and device pointers as integers. */
static int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                     void **);
static int (*create_stream)(void **, unsigned);
static int (*synchronise)(void *);
static int (*query)(void *);
static int (*wait_first)(void *, uint64_t, uint32_t, unsigned);
static int (*wait_value)(void *, uint64_t, uint32_t, unsigned);
static int (*write_value)(void *, uint64_t, uint32_t, unsigned);
static int (*batch)(void *, unsigned, void *, unsigned);
static int (*create_event)(void **, unsigned);
static int (*record)(void *, void *);
static int (*elapsed)(float *, void *, void *);

static void *spin;
static volatile uint32_t *words;
static uint64_t words_on_gpu;

static double now_us(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void check(int result, const char *what)
{
    if (result == 0)
        return;
    printf("%s gives %d\n", what, result);
    fflush(stdout);
    _exit(1);
}

static void *symbol(void *driver, const char *name)
{
    void *found = dlsym(driver, name);

    if (found == NULL) {
        printf("the driver has no %s\n", name);
        _exit(1);
    }
    return found;
}

static void begin(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *context, *module, *memory;
    int (*init)(unsigned), (*device_of)(int *, int), (*retain)(void **, int), (*set_current)(void *);
    int (*load)(void **, const void *), (*find)(void **, void *, const char *);
    int (*host_alloc)(void **, size_t, unsigned), (*device_pointer)(uint64_t *, void *, unsigned);
    int device;

    if (driver == NULL) {
        puts("libcuda.so.1 cannot be loaded");
        _exit(1);
    }
    *(void **)&init = symbol(driver, "cuInit");
    *(void **)&device_of = symbol(driver, "cuDeviceGet");
    *(void **)&retain = symbol(driver, "cuDevicePrimaryCtxRetain");
    *(void **)&set_current = symbol(driver, "cuCtxSetCurrent");
    *(void **)&load = symbol(driver, "cuModuleLoadData");
    *(void **)&find = symbol(driver, "cuModuleGetFunction");
    *(void **)&host_alloc = symbol(driver, "cuMemHostAlloc");
    *(void **)&device_pointer = symbol(driver, "cuMemHostGetDevicePointer_v2");
    *(void **)&launch = symbol(driver, "cuLaunchKernel");
    *(void **)&create_stream = symbol(driver, "cuStreamCreate");
    *(void **)&synchronise = symbol(driver, "cuStreamSynchronize");
    *(void **)&query = symbol(driver, "cuStreamQuery");
    /* Not every driver has the first version still. */
    *(void **)&wait_first = dlsym(driver, "cuStreamWaitValue32");
    *(void **)&wait_value = symbol(driver, "cuStreamWaitValue32_v2");
    *(void **)&write_value = symbol(driver, "cuStreamWriteValue32_v2");
    *(void **)&batch = symbol(driver, "cuStreamBatchMemOp_v2");
    *(void **)&create_event = symbol(driver, "cuEventCreate");
    *(void **)&record = symbol(driver, "cuEventRecord");
    *(void **)&elapsed = symbol(driver, "cuEventElapsedTime");
    check(init(0), "cuInit");
    check(device_of(&device, 0), "cuDeviceGet");
    check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(set_current(context), "cuCtxSetCurrent");
    check(load(&module, SPIN_MODULE), "cuModuleLoadData");
    check(find(&spin, module, "spin"), "cuModuleGetFunction");
    check(host_alloc(&memory, WORDS_BYTES, PORTABLE_DEVICEMAP), "cuMemHostAlloc");
    check(device_pointer(&words_on_gpu, memory, 0), "cuMemHostGetDevicePointer");
    memset(memory, 0, WORDS_BYTES);
    words = memory;
}

static void *stream_of(unsigned flags)
{
    void *stream;

    check(create_stream(&stream, flags), "cuStreamCreate");
    return stream;
}

static void run(void *stream, double us)
{
    uint64_t ns = us * 1e3;
    void *parameters[] = {&ns};

    check(launch(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL), "cuLaunchKernel");
}

static void wait_for(void *stream, int word, uint32_t value)
{
    check(wait_value(stream, words_on_gpu + 4 * word, value, 0), "cuStreamWaitValue32");
}

static void write_to(void *stream, int word, uint32_t value)
{
    check(write_value(stream, words_on_gpu + 4 * word, value, 0), "cuStreamWriteValue32");
}

/* A write and a wait in one call; CUstreamBatchMemOpParams has 48 bytes. */
static void write_and_wait(void *stream, uint32_t done, uint32_t open)
{
    struct {
        uint32_t operation, unused;
        uint64_t address, value;
        uint32_t flags, unused2;
        uint64_t alias, rest;
    } both[] = {{.operation = 2, .address = words_on_gpu + 4 * DONE, .value = done},
                {.operation = 1, .address = words_on_gpu + 4 * OPEN, .value = open}};

    check(batch(stream, 2, both, 0), "cuStreamBatchMemOp");
}

static int by_size(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;

    return (a > b) - (a < b);
}

static void show(const char *what, double *us, int count)
{
    qsort(us, count, sizeof *us, by_size);
    printf("%-46s p50 %8.2f  p90 %8.2f  p99 %8.2f  max %8.2f us\n", what, us[count / 2], us[count * 9 / 10],
           us[count * 99 / 100], us[count - 1]);
}

static void kinds(void)
{
    void *streams[] = {NULL, (void *)1, (void *)2, stream_of(0)};
    const char *names[] = {"null", "legacy", "per-thread", "blocking"};
    int first, before, after;

    for (int i = 0; i < 4; i++) {
        words[OPEN] = 0;
        first = wait_first ? wait_first(streams[i], words_on_gpu, 0, 0) : -1;
        wait_for(streams[i], OPEN, 1);
        usleep(1000);
        before = query(streams[i]);
        words[OPEN] = 1;
        after = synchronise(streams[i]);
        printf("%-10s first version gives %d (-1: there is none), second waits: query %d, then synchronise %d\n", names[i], first, before,
               after);
    }
}

static volatile int is_over;

static void *open_later(void *unused)
{
    (void)unused;
    usleep(300000);
    words[OPEN] = 1;
    is_over = 1;
    return NULL;
}

/* How many launches fit behind a wait. */
static void depth(int group)
{
    void *stream = stream_of(NON_BLOCKING);
    pthread_t opener;
    double began;
    int count = 0;

    words[OPEN] = 0;
    is_over = 0;
    wait_for(stream, OPEN, 1);
    pthread_create(&opener, NULL, open_later, NULL);
    do {
        began = now_us();
        run(stream, 1);
        if (group && count % group == group - 1)
            write_and_wait(stream, count, 1);
        count++;
    } while (now_us() - began < 50000 && !is_over && count < MOST_LAUNCHES);
    printf("a write and a wait each %d launches: launch %d %s\n", group, count,
           is_over ? "waited for room, or came too late" : "waited for room");
    pthread_join(opener, NULL);
    check(synchronise(stream), "cuStreamSynchronize");
}

/* GPU time of 800 kernels with one of these after each `group`. */
static void cost(double us, int group)
{
    static const char *const NAMES[] = {"nothing", "wait", "write", "write, wait", "both in one call", "event"};
    enum { KERNELS = 800 };
    void *stream = stream_of(NON_BLOCKING), *first, *last, *between;
    float ms, bare_ms = 0;
    double began, host_us;

    check(create_event(&first, 0) | create_event(&last, 0) | create_event(&between, 2), "cuEventCreate");
    words[OPEN] = 0;
    for (int way = 0; way < 6; way++) {
        /* Twice, and the second counts. */
        for (int round = 0; round < 2; round++) {
            host_us = 0;
            words[HOLD] = 0;
            wait_for(stream, HOLD, 1);
            check(record(first, stream), "cuEventRecord");
            for (int i = 1; i <= KERNELS; i++) {
                run(stream, us);
                if (i % group != 0)
                    continue;
                began = now_us();
                if (way == 1 || way == 3) {
                    if (way == 3)
                        write_to(stream, DONE, i);
                    wait_for(stream, OPEN, 0);
                } else if (way == 2) {
                    write_to(stream, DONE, i);
                } else if (way == 4) {
                    write_and_wait(stream, i, 0);
                } else if (way == 5) {
                    check(record(between, stream), "cuEventRecord");
                }
                host_us += now_us() - began;
            }
            check(record(last, stream), "cuEventRecord");
            words[HOLD] = 1;
            check(synchronise(stream), "cuStreamSynchronize");
            check(elapsed(&ms, first, last), "cuEventElapsedTime");
        }
        bare_ms = way == 0 ? ms : bare_ms;
        printf("%2.0f us kernels, each %d: %-17s GPU %6.2f us, processor %5.2f us\n", us, group, NAMES[way],
               (ms - bare_ms) * 1e3 * group / KERNELS, host_us * group / KERNELS);
    }
}

static void from_word_to_work(void)
{
    void *stream = stream_of(NON_BLOCKING);
    double us[ROUNDS], began;

    for (int i = 0; i < ROUNDS; i++) {
        words[OPEN] = words[DONE] = 0;
        wait_for(stream, OPEN, 1);
        write_to(stream, DONE, 1);
        usleep(200);
        began = now_us();
        words[OPEN] = 1;
        while (words[DONE] == 0)
            ;
        us[i] = now_us() - began;
        check(synchronise(stream), "cuStreamSynchronize");
    }
    show("from the word to what waits for it", us, ROUNDS);
}

/* What the two processes tell each other. */
enum { IDLE, BLOCK, DRAIN, TAKE_OVER_BLOCKED, TAKE_OVER_LAUNCHING };
static struct {
    volatile int command, answers, is_free;
    volatile double took_over_us;
} *shared;

static void other_process(void)
{
    void *stream;

    begin();
    stream = stream_of(NON_BLOCKING);
    for (shared->answers = 1;; shared->answers++) {
        while (shared->command == IDLE)
            usleep(50);
        words[OPEN] = shared->command == DRAIN;
        words[DONE] = 0;
        if (shared->command == BLOCK) {
            for (int i = 0; i < 400; i++) {
                if (i % 10 == 0)
                    wait_for(stream, OPEN, 1);
                run(stream, 20);
            }
        } else if (shared->command == DRAIN) {
            check(synchronise(stream), "cuStreamSynchronize");
        } else {
            if (shared->command == TAKE_OVER_BLOCKED) {
                wait_for(stream, OPEN, 1);
                run(stream, 1);
                write_to(stream, DONE, 1);
            }
            shared->answers++;
            while (!shared->is_free)
                ;
            if (shared->command == TAKE_OVER_LAUNCHING) {
                run(stream, 1);
                write_to(stream, DONE, 1);
            }
            words[OPEN] = 1;
            while (words[DONE] == 0)
                ;
            shared->took_over_us = now_us();
            check(synchronise(stream), "cuStreamSynchronize");
        }
        shared->command = IDLE;
    }
}

static void await_answer(int before)
{
    double began = now_us();

    while (shared->answers == before) {
        if (now_us() - began > 10e6)
            check(-1, "an answer of the other process");
    }
}

static void command(int what)
{
    int before = shared->answers;

    shared->command = what;
    await_answer(before);
}

static void latency(const char *what, void *stream)
{
    double us[2000], began;

    for (int i = 0; i < 2000; i++) {
        began = now_us();
        run(stream, 20);
        check(synchronise(stream), "cuStreamSynchronize");
        us[i] = now_us() - began;
    }
    show(what, us, 2000);
}

static void take_over(const char *what, int way, void *stream)
{
    double us[ROUNDS], began;
    int before;

    for (int i = 0; i < ROUNDS; i++) {
        shared->is_free = 0;
        command(way);
        usleep(2000);
        before = shared->answers;
        for (int k = 0; k < 5; k++)
            run(stream, 40);
        check(synchronise(stream), "cuStreamSynchronize");
        began = now_us();
        shared->is_free = 1;
        await_answer(before);
        us[i] = shared->took_over_us - began;
    }
    show(what, us, ROUNDS);
}

int main(void)
{
    void *stream;
    pid_t other;
    double began;

    setvbuf(stdout, NULL, _IOLBF, 0);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    other = fork();
    if (other == 0)
        other_process();
    await_answer(0);
    begin();
    stream = stream_of(NON_BLOCKING);
    kinds();
    depth(0);
    depth(10);
    cost(2, 20);
    cost(10, 10);
    from_word_to_work();
    latency("20 us kernel, the other process idle", stream);
    command(BLOCK);
    latency("20 us kernel, the other process waits", stream);
    command(DRAIN);
    take_over("from one process to one that waits", TAKE_OVER_BLOCKED, stream);
    take_over("from one process to one that launches then", TAKE_OVER_LAUNCHING, stream);
    command(BLOCK);
    began = now_us();
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    printf("killed while it waits: gone after %.0f us\n", now_us() - began);
    latency("20 us kernel, the other process gone", stream);
    return 0;
}
