/* One program for the simulated driver and for a real one: small cases, each with the value observed and the value a
 * real driver gives.
 *
 *   cc -std=c11 -O1 -o conformance conformance.c -ldl -lpthread
 *   ./conformance              every case; exit 1 if one without a note differs
 *   ./conformance --list       the same, exit 0
 *   ./conformance --case NAME  one case
 *   ./conformance --better     what may differ under the shim: name, value and why, a line each
 *
 * LD_LIBRARY_PATH decides whose libcuda.so.1 it is. Cases that may differ between drivers, or between a driver and the
 * simulator, carry a note that says why. Nothing here is hard on a card: the largest allocation is 64 MiB.
 */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, SPIN_NS = 20 * 1000 * 1000, ABSENT = -1000, MAX_CASES = 800 };

static struct Driver d;
static Handle context, module, vector_add, spin, saxpy;

/* ---- the table of cases ---- */

typedef long long (*Run)(void);
struct Case { const char *name, *note; long long expected; Run run; bool alone; };
static struct Case cases[MAX_CASES];
static int case_count;

static void add_case(const char *name, long long expected, const char *note, bool alone, Run run) {
    if (case_count == MAX_CASES) abort();
    cases[case_count++] = (struct Case){name, note, expected, run, alone};
}

#define DEFINE_CASE(name, expected, note, alone) \
    static long long run_##name(void); \
    __attribute__((constructor)) static void add_##name(void) { add_case(#name, expected, note, alone, run_##name); } \
    static long long run_##name(void)
/* A case, one with a note, and one that runs in a process of its own (it breaks its context, or may crash a driver). */
#define CASE(name, expected) DEFINE_CASE(name, expected, NULL, false)
#define NOTED(name, expected, note) DEFINE_CASE(name, expected, note, false)
#define ALONE(name, expected) DEFINE_CASE(name, expected, NULL, true)
#define ALONE_NOTED(name, expected, note) DEFINE_CASE(name, expected, note, true)
/* A case that no real driver has been asked yet: the value is the simulator's. It becomes a CASE with the first run. */
#define NOT_OBSERVED "not yet observed on a real driver"
#define RECORDS(name, expected) DEFINE_CASE(name, expected, NOT_OBSERVED, false)
#define ALONE_RECORDS(name, expected) DEFINE_CASE(name, expected, NOT_OBSERVED, true)

/* ---- help for cases ---- */

static const char PTX[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)\n"
    "{\n"
    "  .reg .pred %p<2>; .reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %rd<8>;\n"
    "  ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c]; ld.param.u32 %r1, [n];\n"
    "  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "  setp.ge.u32 %p1, %r5, %r1; @%p1 bra DONE;\n"
    "  mul.wide.u32 %rd4, %r5, 4; add.s64 %rd5, %rd1, %rd4; add.s64 %rd6, %rd2, %rd4; add.s64 %rd7, %rd3, %rd4;\n"
    "  ld.global.f32 %f1, [%rd5]; ld.global.f32 %f2, [%rd6]; add.f32 %f3, %f1, %f2; st.global.f32 [%rd7], %f3;\n"
    "DONE: ret;\n"
    "}\n"
    ".visible .entry saxpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u32 n)\n"
    "{\n"
    "  .reg .pred %p<2>; .reg .b32 %r<6>; .reg .f32 %f<5>; .reg .b64 %rd<6>;\n"
    "  ld.param.f32 %f1, [a]; ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u32 %r1, [n];\n"
    "  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "  setp.ge.u32 %p1, %r5, %r1; @%p1 bra DONE;\n"
    "  mul.wide.u32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;\n"
    "  ld.global.f32 %f2, [%rd4]; ld.global.f32 %f3, [%rd5]; fma.rn.f32 %f4, %f1, %f2, %f3; st.global.f32 [%rd5], %f4;\n"
    "DONE: ret;\n"
    "}\n"
    ".visible .entry spin(.param .u64 ns)\n"
    "{\n"
    "  .reg .pred %p<2>; .reg .b64 %rd<5>;\n"
    "  ld.param.u64 %rd1, [ns]; mov.u64 %rd2, %globaltimer; add.s64 %rd3, %rd2, %rd1;\n"
    "LOOP: mov.u64 %rd4, %globaltimer; setp.lt.u64 %p1, %rd4, %rd3; @%p1 bra LOOP;\n"
    "  ret;\n"
    "}\n";

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static Result launch_spin(Handle stream, U64 ns) {
    void *parameters[] = {&ns};
    return d.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

static Result launch_add(Handle stream, Address a, Address b, Address c, U32 n) {
    void *parameters[] = {&a, &b, &c, &n};
    return d.cuLaunchKernel(vector_add, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, parameters, NULL);
}

static Address device(size_t bytes) {
    Address address = 0;
    d.cuMemAlloc_v2(&address, bytes);
    return address;
}

static void *pinned(size_t bytes) {
    void *address = NULL;
    d.cuMemHostAlloc(&address, bytes, 0);
    return address;
}

static Handle stream_of(U32 flags) {
    Handle stream = NULL;
    d.cuStreamCreate(&stream, flags);
    return stream;
}

static Handle event_of(U32 flags) {
    Handle event = NULL;
    d.cuEventCreate(&event, flags);
    return event;
}

static void drop_stream(Handle stream) {
    d.cuStreamSynchronize(stream);
    d.cuStreamDestroy_v2(stream);
}

static int attribute(int number) {
    int value = -1;
    d.cuDeviceGetAttribute(&value, number, 0);
    return value;
}

/* Ends whatever capture a case left behind and gives the result of ending it. */
static Result end_capture(Handle stream) {
    Handle graph = NULL;
    Result result = d.cuStreamEndCapture(stream, &graph);
    if (graph) d.cuGraphDestroy(graph);
    return result;
}

/* Two digits of a case: a result and another, as 1000 * first + second. */
static long long both(Result first, Result second) { return 1000LL * first + second; }

struct Thread { long long (*run)(void *); void *argument; long long result; };
static void *thread_main(void *argument) {
    struct Thread *thread = argument;
    d.cuCtxSetCurrent(context);
    thread->result = thread->run(thread->argument);
    return NULL;
}

static long long in_thread(long long (*run)(void *), void *argument) {
    struct Thread thread = {run, argument, 0};
    pthread_t id;
    pthread_create(&id, NULL, thread_main, &thread);
    pthread_join(id, NULL);
    return thread.result;
}

static Copy2D rectangle(void) {
    Copy2D copy;
    memset(&copy, 0, sizeof copy);
    return copy;
}

static AllocationProp on_device(void) {
    AllocationProp prop;
    memset(&prop, 0, sizeof prop);
    prop.kind = 1;
    prop.location = (Location){1, 0};
    return prop;
}

#include "cases_basic.h"
#include "cases_stream.h"
#include "cases_capture.h"
#include "cases_memory.h"
#include "cases_pinned.h"
#include "better.h"

/* ---- running them ---- */

static bool open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "conformance: %s\n", dlerror());
        return false;
    }
#define FIND(name, arguments) *(void **)&d.name = dlsym(library, #name);
    FUNCTIONS(FIND)
#undef FIND
    return true;
}

/* Holds as many blocks of 1 MiB as CONFORMANCE_HOLD says, for good: 16 are more than the first slab of the shim's pool, and once
 * the next have had time to come, the cases have their memory from there. */
static void hold_blocks(void) {
    const char *count = getenv("CONFORMANCE_HOLD");
    if (!count) return;
    for (int left = atoi(count); left > 0; left--) pinned(1 << 20);
    usleep(500 * 1000);
}

static bool set_up(void) {
    Result result = d.cuInit(0);
    if (!result) result = d.cuDevicePrimaryCtxRetain(&context, 0);
    if (!result) result = d.cuCtxSetCurrent(context);
    if (!result) result = d.cuModuleLoadData(&module, PTX);
    if (!result) result = d.cuModuleGetFunction(&vector_add, module, "vector_add");
    if (!result) result = d.cuModuleGetFunction(&saxpy, module, "saxpy");
    if (!result) result = d.cuModuleGetFunction(&spin, module, "spin");
    if (!result) hold_blocks();
    if (result) fprintf(stderr, "conformance: the driver could not be set up: error %d\n", result);
    return result == 0;
}

/* Runs a case in a fresh process; a crash is 100000 + its signal, and a hang SIGALRM's. */
static long long run_alone(const char *name) {
    char value[64] = "";
    int ends[2];
    if (pipe(ends)) return ABSENT;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        close(ends[0]);
        execl("/proc/self/exe", "conformance", "--value", name, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    ssize_t length = read(ends[0], value, sizeof value - 1);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) return 100000 + WTERMSIG(status);
    return length > 0 ? atoll(value) : ABSENT;
}

static const struct Case *find_case(const char *name) {
    for (int i = 0; i < case_count; i++)
        if (!strcmp(cases[i].name, name)) return &cases[i];
    return NULL;
}

static int run_one(const char *name, bool bare) {
    const struct Case *found = find_case(name);
    if (!found) return 2;
    /* Cases that look at a driver not yet set up say so by their name. */
    if (strncmp(name, "before_init", 11) && !set_up()) return 1;
    alarm(30);
    long long value = found->run();
    printf(bare ? "%lld\n" : "%lld (expected %lld)\n", value, found->expected);
    fflush(stdout);
    _exit(value == found->expected || bare ? 0 : 1);
}

static sigjmp_buf before_crash;
static void crashed(int signal) { siglongjmp(before_crash, signal); }

/* A case's value; a crash in the driver is 100000 + its signal, and the others still run. Cases look at the clock, and a
 * busy machine can make one miss: what differs is tried again, twice. */
static long long run_guarded(const struct Case *c) {
    int signal = sigsetjmp(before_crash, 1);
    if (signal) return 100000 + signal;
    long long value = c->run();
    for (int attempt = 0; attempt < 2 && value != c->expected; attempt++) value = c->run();
    return value;
}

static int run_all(bool list) {
    int differences = 0, unexplained = 0;
    char name[100] = "";
    /* Children before the driver is initialised here: after a fork it would be of no use to them. */
    static long long alone[MAX_CASES];
    for (int i = 0; i < case_count; i++)
        if (cases[i].alone) alone[i] = run_alone(cases[i].name);
    if (!set_up()) return 1;
    struct sigaction action = {.sa_handler = crashed};
    sigaction(SIGSEGV, &action, NULL), sigaction(SIGBUS, &action, NULL), sigaction(SIGFPE, &action, NULL);
    d.cuDeviceGetName(name, sizeof name, 0);
    printf("driver: %s%s\n", name, strstr(name, "simulated") ? " (SIMULATED GPU)" : "");
    for (int i = 0; i < case_count; i++) {
        const struct Case *c = &cases[i];
        long long value = c->alone ? alone[i] : run_guarded(c);
        bool differs = value != c->expected;
        differences += differs;
        unexplained += differs && !c->note;
        printf("%s %lld", c->name, value);
        if (differs) printf("   <- expected %lld%s%s", c->expected, c->note ? "; " : "", c->note ? c->note : "");
        printf("\n");
        fflush(stdout);
    }
    printf("%d cases, %d differences\n", case_count, differences);
    return unexplained && !list ? 1 : 0;
}

static int list_better(void) {
    for (size_t i = 0; i < sizeof better / sizeof *better; i++) {
        if (!find_case(better[i].name)) return 2;
        printf("%s %lld %s\n", better[i].name, better[i].value, better[i].why);
    }
    return 0;
}

int main(int count, char **arguments) {
    alarm(200);
    if (count == 2 && !strcmp(arguments[1], "--better")) return list_better();
    if (!open_driver()) return 1;
    if (count == 3 && !strcmp(arguments[1], "--value")) return run_one(arguments[2], true);
    if (count == 3 && !strcmp(arguments[1], "--case")) return run_one(arguments[2], false);
    return run_all(count == 2 && !strcmp(arguments[1], "--list"));
}
