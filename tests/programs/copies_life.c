/* Staged copies and the life of a process: "fork" in between, "exit" while another thread copies, "cancel" of threads
 * that do, "signals" that the helping threads leave alone, "processors" given and taken away meanwhile, "once", a single
 * large copy, and "small", many before there is anything to stage them through. */
#include "program.h"
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>

enum { MIB = 1 << 20, BYTES = 24 * MIB };

static CUdeviceptr memory;
static unsigned char *from, *to;

static void begin(void)
{
    make_context();
    CHECK(cuMemAlloc_v2(&memory, 128 * MIB));
    from = calloc(128, MIB);
    to = malloc(BYTES);
}

static void copy_large(void)
{
    CHECK(cuMemcpyHtoD_v2(memory, from, 128 * MIB));
}

static int copy(int i)
{
    memset(from, i, BYTES);
    CHECK(cuMemcpyHtoDAsync_v2(memory, from, BYTES, NULL));
    CHECK(cuMemcpyDtoHAsync_v2(to, memory, BYTES, NULL));
    return memcmp(from, to, BYTES) != 0;
}

static void forked(void)
{
    int status, wrong = 0;

    copy_large();
    for (int i = 0; i < 4; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(cuMemcpyHtoD_v2(memory, from, BYTES) == 3 ? 9 : 1); /* not initialised */
        wrong += copy(i);
        ASSERT(waitpid(child, &status, 0) == child);
        printf("child %d\n", WEXITSTATUS(status));
    }
    printf("%d wrong\n", wrong);
}

static void *copy_on(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    for (;;) {
        CUresult status = cuMemcpyHtoDAsync_v2(memory, from, 128 * MIB, (CUstream)(uintptr_t)PER_THREAD);
        if (status == 0)
            status = cuMemcpyDtoH_v2(to, memory, BYTES);
        if (status != 0) /* the driver has gone */
            pause();
        pthread_testcancel();
    }
    return unused;
}

static void exiting(int after_us)
{
    pthread_t thread;

    copy_large();
    pthread_create(&thread, NULL, copy_on, NULL);
    usleep(after_us);
    exit(6);
}

static void cancelled(void)
{
    int wrong = 0;

    copy_large();
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, copy_on, NULL);
        usleep(5000 * i);
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        wrong += copy(i);
    }
    printf("%d wrong\n", wrong);
}

/* Threads called NAME, and the signals that one of them does not block. */
static int helpers(unsigned long long *taken)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    int count = 0;

    while ((task = readdir(tasks)) != NULL) {
        char path[300], line[200], comm[64] = "";
        unsigned long long blocked;
        FILE *file;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        if ((file = fopen(path, "r")) == NULL)
            continue;
        while (fgets(line, sizeof line, file) != NULL) {
            sscanf(line, "Name:\t%63s", comm);
            if (sscanf(line, "SigBlk:\t%llx", &blocked) == 1 && strcmp(comm, "aishim-copy") == 0) {
                *taken |= ~blocked & 0x7fffffff;
                count++;
            }
        }
        fclose(file);
    }
    closedir(tasks);
    return count;
}

/* They come with the first copy that is staged, and go when nothing has been for some seconds. */
static void helping(void)
{
    unsigned long long taken = 0;
    int before = helpers(&taken), while_there, waits;

    copy_large();
    while_there = helpers(&taken);
    for (waits = 0; helpers(&taken) > 0 && waits < 3000; waits++)
        usleep(10000);
    taken &= ~(1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGFPE - 1) | 1ull << (SIGILL - 1));
    taken &= ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
    printf("before %d, with a copy %s, later %d, signals taken %llx\n", before, while_there > 0 ? "some" : "none",
           helpers(&taken), taken);
    copy_large();
    printf("again %s\n", helpers(&taken) > 0 ? "some" : "none");
}

static void processors(void)
{
    cpu_set_t all, one;
    int wrong = 0;

    copy_large();
    sched_getaffinity(0, sizeof all, &all);
    for (int i = 0; i < 12; i++) {
        int which = i % CPU_SETSIZE;
        while (!CPU_ISSET(which, &all))
            which = (which + 1) % CPU_SETSIZE;
        CPU_ZERO(&one);
        CPU_SET(which, &one);
        ASSERT(sched_setaffinity(0, sizeof one, i % 2 ? &one : &all) == 0);
        wrong += copy(i);
    }
    printf("%d wrong\n", wrong);
}

static void small(void)
{
    int wrong = 0;

    for (int i = 0; i < 40; i++) {
        wrong += copy(i);
        usleep(2000);
    }
    printf("%d wrong\n", wrong);
}

int main(int argc, char **argv)
{
    const char *kind = argv[1];

    begin();
    if (strcmp(kind, "fork") == 0)
        forked();
    else if (strcmp(kind, "exit") == 0)
        exiting(atoi(argv[2]));
    else if (strcmp(kind, "cancel") == 0)
        cancelled();
    else if (strcmp(kind, "signals") == 0)
        helping();
    else if (strcmp(kind, "processors") == 0)
        processors();
    else if (strcmp(kind, "once") == 0)
        copy_large();
    else if (strcmp(kind, "small") == 0)
        small();
    (void)argc;
    return 0;
}
