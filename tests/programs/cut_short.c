/* Calls that do not return: threads cancelled inside the driver, at once or at a cancellation point, threads that end
 * themselves in there, and signal handlers that jump out. Each is tried on every function below, and on each of a
 * thread's first launches, since a library in between may treat those differently. Runs on fakecuda. */
#include "program.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <time.h>

extern void (*fake_on_call)(const char *);
extern unsigned long fake_launches;

enum way { DEFERRED, AT_ONCE, ENDS, JUMPS };

static enum way way;
static _Thread_local const char *cut_in; /* the function whose call is to be cut short */
static _Thread_local sigjmp_buf back;
static volatile int is_inside, cleanups;
static long launched;

static void on_call(const char *name)
{
    if (cut_in == NULL || strcmp(name, cut_in) != 0)
        return;
    cut_in = NULL;
    __atomic_store_n(&is_inside, 1, __ATOMIC_RELEASE);
    switch (way) {
    case DEFERRED:
        for (;;)
            nanosleep(&(struct timespec){1, 0}, NULL);
    case AT_ONCE:
        for (;;)
            ;
    case ENDS:
        pthread_exit((void *)7);
    case JUMPS:
        raise(SIGUSR1);
    }
}

static void jump(int unused)
{
    (void)unused;
    siglongjmp(back, 1);
}

static void launch(void)
{
    CHECK(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    __atomic_fetch_add(&launched, 1, __ATOMIC_RELAXED);
}

static void call(const char *name)
{
    static char from[64];
    CUdeviceptr memory;
    CUstream stream;
    void *host;

    CHECK(cuMemAlloc_v2(&memory, sizeof from));
    CHECK(cuStreamCreate(&stream, 0));
    CHECK(cuMemHostAlloc(&host, 4096, WRITECOMBINED));
    CHECK(cuMemcpyHtoD_v2(memory, from, sizeof from));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemFreeHost(host));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFree_v2(memory));
    (void)name;
    launch();
}

static void cleaned(void *unused)
{
    (void)unused;
    cleanups++;
}

struct job {
    const char *function;
    int launches_before;
};

static void *work(void *argument)
{
    struct job *job = argument;

    CHECK(cuCtxSetCurrent(context));
    if (way == AT_ONCE)
        pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
    pthread_cleanup_push(cleaned, NULL);
    for (int i = 0; i < job->launches_before; i++)
        launch();
    cut_in = job->function;
    if (sigsetjmp(back, 1) == 0) {
        if (way == AT_ONCE)
            pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
        call(job->function);
        ASSERT(!"the call came back");
    }
    for (int i = 0; i < 20; i++) /* only after a jump */
        launch();
    pthread_cleanup_pop(0);
    return (void *)8;
}

static void cut_short(const char *function, int launches_before)
{
    struct job job = {function, launches_before};
    pthread_t thread;
    void *result;

    is_inside = 0;
    cleanups = 0;
    ASSERT(pthread_create(&thread, NULL, work, &job) == 0);
    if (way == DEFERRED || way == AT_ONCE) {
        while (!__atomic_load_n(&is_inside, __ATOMIC_ACQUIRE))
            usleep(100);
        pthread_cancel(thread);
    }
    pthread_join(thread, &result);
    ASSERT(result == (way == ENDS ? (void *)7 : way == JUMPS ? (void *)8 : PTHREAD_CANCELED));
    ASSERT(cleanups == (way == JUMPS ? 0 : 1));
}

int main(int argc, char **argv)
{
    const char *functions[] = {"cuMemAlloc_v2",       "cuStreamCreate",   "cuMemHostAlloc", "cuMemcpyHtoD_v2",
                               "cuStreamSynchronize", "cuCtxSynchronize", "cuMemFreeHost",  "cuStreamDestroy_v2",
                               "cuMemFree_v2",        "cuLaunchKernel"};

    (void)argc;
    way = atoi(argv[1]);
    signal(SIGUSR1, jump);
    make_context();
    fake_on_call = on_call;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        cut_short(functions[i], 3);
    for (int before = 0; before < 40; before++)
        cut_short("cuLaunchKernel", before);
    for (int i = 0; i < 100; i++)
        launch();
    ASSERT(fake_launches == (unsigned long)launched);
    printf("%ld\n", launched);
    return 0;
}
