/* A process that makes others. The first argument says when and how; what each process has got from the driver goes to
 * stdout, without process ids, so that two runs can be compared. */
#include "program.h"
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static void begin(void)
{
    make_context();
    load_kernels();
}

static void launch(int times)
{
    for (int i = 0; i < times; i++)
        CHECK(launch_spin(0, NULL));
    CHECK(cuCtxSynchronize());
}

static int result_of(pid_t child)
{
    int status;

    ASSERT(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* For the test, which reads it from a file and not from stdout. */
static void tell_pid(const char *file, pid_t pid)
{
    char unfinished[4096];
    FILE *to;

    snprintf(unfinished, sizeof unfinished, "%s.new", file);
    to = fopen(unfinished, "w");
    fprintf(to, "%d", (int)pid);
    fclose(to);
    rename(unfinished, file);
}

/* Both sides of a fork before any context. */
static void before(char **argv)
{
    pid_t child = fork();

    if (child == 0) {
        begin();
        launch(7);
        exit(7);
    }
    tell_pid(argv[2], child);
    begin();
    launch(5);
    printf("child %d\n", result_of(child));
}

/* The child of a fork after a context: the driver refuses it, and its calls leave no trace in the parent's segment. */
static void after(char **argv)
{
    pid_t child;

    begin();
    launch(5);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        void *memory = NULL;
        int launched = launch_spin(0, NULL), synchronised = cuCtxSynchronize();
        int allocated = cuMemHostAlloc(&memory, 4096, 0);
        printf("child: launch %d, synchronise %d, host memory %d\n", launched, synchronised, allocated);
        exit(4);
    }
    tell_pid(argv[2], child);
    printf("child %d\n", result_of(child));
    launch(6);
}

/* A child of a fork after a context that lives longer than its parent. */
static void orphan(char **argv)
{
    pid_t child;

    begin();
    launch(5);
    child = fork();
    if (child == 0) {
        (void)launch_spin(0, NULL);
        tell_pid(argv[2], getpid());
        sleep(60);
        _exit(0);
    }
    while (access(argv[2], F_OK) != 0)
        usleep(1000);
    _exit(0);
}

static void spawned(char **argv, const char *how)
{
    char *arguments[] = {argv[0], "plain", NULL};
    pid_t child = 0;

    begin();
    launch(5);
    if (strcmp(how, "spawn") == 0) {
        ASSERT(posix_spawn(&child, argv[0], NULL, NULL, arguments, environ) == 0);
    } else {
        child = strcmp(how, "vfork") == 0 ? vfork() : fork();
        if (child == 0) {
            execv(argv[0], arguments);
            _exit(9);
        }
    }
    tell_pid(argv[2], child);
    printf("child %d\n", result_of(child));
    launch(6);
    printf("system %d\n", system("exit 5") >> 8);
}

static void plain(void)
{
    begin();
    launch(3);
    exit(3);
}

static void wait_for_ever(void)
{
    begin();
    launch(3);
    puts("waiting");
    fflush(stdout);
    for (;;)
        pause();
}

/* The same process becomes another program: same PID, same start time. */
static void replaced(char **argv)
{
    char *arguments[] = {argv[0], "plain", NULL};

    begin();
    launch(5);
    execv(argv[0], arguments);
}

/* A daemon that forks twice and then makes its context; the file says when it is done. */
static void daemonised(char **argv)
{
    if (fork() != 0)
        _exit(0);
    setsid();
    if (fork() != 0)
        _exit(0);
    begin();
    launch(8);
    tell_pid(argv[2], getpid());
    exit(0);
}

static volatile int stop;

static void *keep_launching(void *count)
{
    CHECK(cuCtxSetCurrent(context));
    while (!stop) {
        CHECK(launch_spin(0, NULL));
        __atomic_fetch_add((long *)count, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Forks in a thread while others are in the middle of launches and allocations. */
static void *keep_forking(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    for (int i = 0; i < 30; i++) {
        pid_t child = fork();
        if (child == 0) {
            void *memory;
            (void)launch_spin(0, NULL);
            (void)cuMemHostAlloc(&memory, 4096, 0);
            exit(6);
        }
        ASSERT(result_of(child) == 6);
    }
    return unused;
}

static void threaded(char **argv)
{
    pthread_t launching[3], forking;
    long count = 0;

    begin();
    for (int i = 0; i < 3; i++)
        pthread_create(&launching[i], NULL, keep_launching, &count);
    pthread_create(&forking, NULL, keep_forking, NULL);
    pthread_join(forking, NULL);
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(launching[i], NULL);
    tell_pid(argv[2], (pid_t)count);
}

int main(int argc, char **argv)
{
    const char *how = argv[1];

    (void)argc;
    if (strcmp(how, "before") == 0)
        before(argv);
    else if (strcmp(how, "after") == 0)
        after(argv);
    else if (strcmp(how, "orphan") == 0)
        orphan(argv);
    else if (strcmp(how, "wait") == 0)
        wait_for_ever();
    else if (strcmp(how, "plain") == 0)
        plain();
    else if (strcmp(how, "replaced") == 0)
        replaced(argv);
    else if (strcmp(how, "daemon") == 0)
        daemonised(argv);
    else if (strcmp(how, "threaded") == 0)
        threaded(argv);
    else
        spawned(argv, how);
    return 0;
}
