/* Looks names up in every way dlsym offers and says what came of it, in words that do not depend on addresses, so that
 * two runs can be compared. Exports its own cuFoo, and with -DOWN_LAUNCH its own cuLaunchKernel (it is linked with
 * -rdynamic). The first argument says which lookups. */
#include "driver.h"
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int cuFoo(void)
{
    return 77;
}

#ifdef OWN_LAUNCH
int own_launches;

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void **arguments, void **extra)
{
    (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz;
    (void)shared, (void)stream, (void)arguments, (void)extra;
    own_launches++;
    return 1234;
}
#endif

/* Which library a function is in, by its file's last name. */
static const char *home(void *function)
{
    Dl_info info;
    const char *slash;

    if (function == NULL)
        return "nothing";
    if (dladdr(function, &info) == 0)
        return "nowhere";
    slash = strrchr(info.dli_fname, '/');
    return slash != NULL ? slash + 1 : info.dli_fname;
}

static void look_up(const char *scope, void *handle, const char *name)
{
    void *found;

    (void)dlerror();
    found = dlsym(handle, name);
    printf("%s %s: %s, error %s\n", scope, name, found != NULL ? "found" : "nothing", dlerror() != NULL ? "set" : "not set");
}

/* No driver is loaded. */
static void without_driver(void)
{
    const char *names[] = {"cuInit", "cuLaunchKernel", "cuFoo", "cuNoSuchThing", "cu", "c", "", "custom", "cuInit_v9",
                           "malloc", "no_such_thing"};
    void *self = dlopen(NULL, RTLD_NOW);
    void *libc = dlopen("libc.so.6", RTLD_NOW);

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        look_up("RTLD_DEFAULT", RTLD_DEFAULT, names[i]);
        look_up("RTLD_NEXT", RTLD_NEXT, names[i]);
        look_up("the program", self, names[i]);
        look_up("libc", libc, names[i]);
    }
    printf("cuFoo gives %d\n", ((int (*)(void))dlsym(RTLD_DEFAULT, "cuFoo"))());
}

/* Lookups that end the process: in children. */
static void fatal(void)
{
    for (int i = 0; i < 2; i++) {
        int status;
        if (fork() == 0) {
            void *volatile handle = i == 0 ? RTLD_DEFAULT : dlopen(NULL, RTLD_NOW);
            const char *volatile name = NULL;
            alarm(20);
            printf("%p\n", dlsym(handle, name));
            _exit(1);
        }
        wait(&status);
        printf("a null name ends with signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    }
}

/* With a driver in the global scope. */
static void with_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    CUresult (*init)(unsigned);
    int (*foo)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "cuFoo");

    look_up("the driver", driver, "cuNoSuchThing");
    look_up("the driver", driver, "cuLaunchKernel");
    look_up("RTLD_DEFAULT", RTLD_DEFAULT, "cuLaunchKernel");
    look_up("RTLD_DEFAULT", RTLD_DEFAULT, "cuDeviceGetName");
    look_up("RTLD_NEXT", RTLD_NEXT, "cuLaunchKernel");
    init = (CUresult (*)(unsigned))dlsym(RTLD_DEFAULT, "cuInit");
    printf("cuInit gives %u, cuFoo %d\n", init != NULL ? (unsigned)init(0) : 999u, foo());
}

#ifdef OWN_LAUNCH
/* A function the program has itself comes before everybody else's. */
static void own(void)
{
    typedef CUresult (*launch)(KERNEL_ARGUMENTS, void **);
    void *self = dlopen(NULL, RTLD_NOW);
    launch found[3];

    (void)dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    found[0] = (launch)dlsym(RTLD_DEFAULT, "cuLaunchKernel");
    found[1] = (launch)dlsym(self, "cuLaunchKernel");
    found[2] = cuLaunchKernel;
    for (int i = 0; i < 3; i++)
        if (found[i] != NULL)
            printf("%u\n", (unsigned)found[i](NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    printf("%d of its own\n", own_launches);
}
#endif

/* A plugin linked to the driver and loaded RTLD_LOCAL or with RTLD_DEEPBIND: nobody else sees its driver. */
static void plugin(const char *path, int flags)
{
    void *loaded = dlopen(path, RTLD_NOW | flags);
    int (*run)(void);

    if (loaded == NULL) {
        printf("%s\n", dlerror());
        return;
    }
    run = (int (*)(void))dlsym(loaded, "run");
    printf("plugin: %d\n", run());
    look_up("RTLD_DEFAULT", RTLD_DEFAULT, "cuMemGetInfo_v2");
}

/* The driver is opened, used, closed, and opened again, perhaps somewhere else. */
static void reopened(const char *expected_home)
{
    for (int i = 0; i < 4; i++) {
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        CUresult (*init)(unsigned) = (CUresult (*)(unsigned))dlsym(driver, "cuInit");
        CUresult (*count)(int *) = (CUresult (*)(int *))dlsym(driver, "cuDeviceGetCount");
        int devices = 0;
        Dl_info info;

        printf("init %u, ", (unsigned)init(0));
        printf("count %u, ", (unsigned)count(&devices));
        printf("%d devices\n", devices);
        if (expected_home != NULL && strcmp(home((void *)init), expected_home) != 0)
            printf("cuInit is in %s\n", home((void *)init));
        dladdr(dlsym(driver, "fake_launches"), &info);
        dlclose(driver);
        /* something else now lies where the driver lay */
        if (mmap(info.dli_fbase, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
            puts("the driver has stayed");
    }
}

int main(int argc, char **argv)
{
    const char *which = argv[1];

    if (strcmp(which, "without") == 0)
        without_driver();
    else if (strcmp(which, "fatal") == 0)
        fatal();
    else if (strcmp(which, "with") == 0)
        with_driver();
    else if (strcmp(which, "local") == 0)
        plugin(argv[2], RTLD_LOCAL);
    else if (strcmp(which, "deepbind") == 0)
        plugin(argv[2], RTLD_LOCAL | RTLD_DEEPBIND);
    else if (strcmp(which, "reopened") == 0)
        reopened(argc > 2 ? argv[2] : NULL);
#ifdef OWN_LAUNCH
    else if (strcmp(which, "own") == 0)
        own();
#endif
    fflush(stdout);
    return 0;
}
