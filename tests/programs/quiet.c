/* Touches the driver not at all ("nothing") or only asks how many devices there are ("count"), then says how many
 * threads and open files the process has. */
#include "program.h"
#include <dirent.h>

static int entries(const char *folder)
{
    DIR *opened = opendir(folder);
    int count = 0;

    while (readdir(opened) != NULL)
        count++;
    closedir(opened);
    return count;
}

int main(int argc, char **argv)
{
    int threads = entries("/proc/self/task"), files = entries("/proc/self/fd"), devices = 0;

    if (argc > 1 && strcmp(argv[1], "count") == 0) {
        driver_load();
        CHECK(cuInit(0));
        CHECK(cuDeviceGetCount(&devices));
        CHECK(cuDeviceGetCount(&devices));
    }
    printf("%d devices, %d threads, %d files at first, %d threads, %d files at last\n", devices, threads - 2, files - 3,
           entries("/proc/self/task") - 2, entries("/proc/self/fd") - 3);
    return 7;
}
