/* The real CUDA runtime, dynamic (its path is the argument) or linked in statically (-DSTATIC): how far it comes, and
 * which functions of the driver it then holds. It keeps their addresses in memory of its own, so all writable memory is
 * searched for addresses of functions; one line each, with the library the function is in. Most of what the runtime
 * wants of a driver besides is not public, and the simulator has not got it. */
#include "driver.h"
#include <string.h>

#ifdef STATIC
extern int cudaRuntimeGetVersion(int *), cudaDriverGetVersion(int *), cudaGetDeviceCount(int *);
extern int cudaMalloc(void **, size_t);
#else
static void *runtime;
#define cudaRuntimeGetVersion ((int (*)(int *))dlsym(runtime, "cudaRuntimeGetVersion"))
#define cudaDriverGetVersion ((int (*)(int *))dlsym(runtime, "cudaDriverGetVersion"))
#define cudaGetDeviceCount ((int (*)(int *))dlsym(runtime, "cudaGetDeviceCount"))
#define cudaMalloc ((int (*)(void **, size_t))dlsym(runtime, "cudaMalloc"))
#endif

struct range {
    unsigned long start, end;
    char permissions[8], file[300];
};

static int next_range(FILE *maps, struct range *range)
{
    char line[600];

    if (fgets(line, sizeof line, maps) == NULL)
        return 0;
    range->file[0] = 0;
    sscanf(line, "%lx-%lx %7s %*s %*s %*s %299s", &range->start, &range->end, range->permissions, range->file);
    return 1;
}

static int is_in(const struct range *range, const char *library)
{
    return strstr(range->file, library) != NULL;
}

/* Tells where the address points, if that is the beginning of a function that begins with cu. */
static void tell(void *address, const char *library)
{
    Dl_info info;

    if (dladdr(address, &info) != 0 && info.dli_saddr == address && info.dli_sname != NULL &&
        strncmp(info.dli_sname, "cu", 2) == 0 && strstr(info.dli_fname, library) != NULL)
        printf("%s %s\n", library, info.dli_sname);
}

static void search(const struct range *where, const struct range *code, int count)
{
    for (unsigned long *at = (unsigned long *)where->start; at < (unsigned long *)where->end; at++)
        for (int i = 0; i < count; i++)
            if (*at >= code[i].start && *at < code[i].end)
                tell((void *)*at, is_in(&code[i], "libaishim") ? "libaishim.so" : "libcuda.so.1");
}

static void search_all(void)
{
    static struct range writable[300], code[16], range;
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long drivers_end = 0;
    int ranges = 0, codes = 0;

    while (next_range(maps, &range)) {
        int is_driver = is_in(&range, "libaishim") || is_in(&range, "libcuda.so");
        /* nameless memory right behind a library is the library's own (.bss) */
        int is_drivers = is_driver || (range.file[0] == 0 && range.start == drivers_end);
        drivers_end = is_drivers ? range.end : 0;
        if (is_driver && range.permissions[2] == 'x' && codes < 16)
            code[codes++] = range;
        if (!is_drivers && strncmp(range.permissions, "rw", 2) == 0 && ranges < 300 &&
            (is_in(&range, "cudart") || is_in(&range, "[heap]") || range.file[0] == 0))
            writable[ranges++] = range;
    }
    fclose(maps);
    for (int i = 0; i < ranges; i++)
        search(&writable[i], code, codes);
}

int main(int argc, char **argv)
{
    int version = 0, driver = 0, devices = 0;
    void *memory, *driver_library = dlopen("libcuda.so.1", RTLD_NOW); /* the runtime closes it when it gives up */

    if (driver_library == NULL)
        puts(dlerror());
#ifndef STATIC
    runtime = dlopen(argv[1], RTLD_NOW);
    if (runtime == NULL) {
        puts(dlerror());
        return 1;
    }
#endif
    (void)argc, (void)argv;
    printf("runtime version: %d", cudaRuntimeGetVersion(&version));
    printf(" %d\n", version);
    printf("driver version: %d", cudaDriverGetVersion(&driver));
    printf(" %d\n", driver);
    printf("devices: %d\n", cudaGetDeviceCount(&devices));
    printf("malloc: %d\n", cudaMalloc(&memory, 4096));
    search_all();
    return 0;
}
