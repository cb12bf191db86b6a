/* Launches, allocates and makes its context under a storm of timer signals: every call of the kernel's may be
 * interrupted. Then says which signals the threads that are not its own would take. */
#include "program.h"
#include <dirent.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

static volatile sig_atomic_t alarms, profiles, elsewhere;
static pid_t main_thread;

static void on_signal(int number)
{
    if (number == SIGALRM)
        alarms++;
    else
        profiles++;
    if (syscall(SYS_gettid) != main_thread)
        elsewhere++;
}

static void storm(int number, int timer, int us)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
    struct itimerval interval = {{0, us}, {0, us}};

    sigaction(number, &action, NULL);
    setitimer(timer, &interval, NULL);
}

/* Signals that a thread called NAME does not block, as a mask; 0 where there is no such thread. */
static unsigned long long taken_by(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned long long taken = 0;
    struct dirent *task;

    while ((task = readdir(tasks)) != NULL) {
        char path[300], line[200], comm[64] = "";
        unsigned long long blocked;
        FILE *file;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        if ((file = fopen(path, "r")) == NULL)
            continue;
        while (fgets(line, sizeof line, file) != NULL) {
            sscanf(line, "Name:\t%63s", comm);
            if (sscanf(line, "SigBlk:\t%llx", &blocked) == 1 && strcmp(comm, name) == 0)
                taken |= ~blocked & 0x7fffffff;
        }
        fclose(file);
    }
    closedir(tasks);
    return taken;
}

int main(int argc, char **argv)
{
    int interval_us = argc > 1 ? atoi(argv[1]) : 1000;
    CUdeviceptr a, b, sum;
    unsigned long long taken = 0;

    main_thread = syscall(SYS_gettid);
    storm(SIGALRM, ITIMER_REAL, interval_us);
    storm(SIGPROF, ITIMER_PROF, interval_us);
    make_context();
    load_kernels();
    a = device_floats(1000, 1);
    b = device_floats(1000, 2);
    sum = device_floats(1000, 0);
    for (int i = 0; i < 3000 || alarms < 20; i++) {
        void *pinned;
        CHECK(launch_add(a, b, sum, 1000, NULL));
        if (i % 20 == 0) {
            CHECK(cuMemHostAlloc(&pinned, 100000, 0));
            taken |= taken_by("aishim-pool");
            CHECK(cuMemFreeHost(pinned));
        }
    }
    CHECK(cuCtxSynchronize());
    storm(SIGALRM, ITIMER_REAL, 0);
    storm(SIGPROF, ITIMER_PROF, 0);
    ASSERT(all_are(sum, 1000, 3));
    /* only the faults */
    taken &= ~(1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGFPE - 1) | 1ull << (SIGILL - 1));
    taken &= ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
    printf("signals taken by others: %llx, handled elsewhere: %d\n", taken, (int)elsewhere);
    return 0;
}
