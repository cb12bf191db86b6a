/* Somebody else's wrapper library: defines functions of libc and of the driver and resolves the next one anew with
 * dlsym(RTLD_NEXT, ...) in every call, as profilers and allocators do. With -DWRAPS_DRIVER it wraps a launch too. */
#include "driver.h"
#include <fcntl.h>
#include <stdarg.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT unsigned long wrapper_calls, wrapper_launches;

EXPORT void *malloc(size_t bytes)
{
    void *(*next)(size_t) = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");

    __atomic_fetch_add(&wrapper_calls, 1, __ATOMIC_RELAXED);
    return next(bytes);
}

EXPORT int open(const char *path, int flags, ...)
{
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    va_list rest;
    int mode;

    va_start(rest, flags);
    mode = va_arg(rest, int);
    va_end(rest);
    __atomic_fetch_add(&wrapper_calls, 1, __ATOMIC_RELAXED);
    return next(path, flags, mode);
}

#ifdef WRAPS_DRIVER
EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                               unsigned shared, CUstream stream, void **arguments, void **extra)
{
    typedef CUresult (*launch)(KERNEL_ARGUMENTS, void **);
    launch next = (launch)dlsym(RTLD_NEXT, "cuLaunchKernel");

    __atomic_fetch_add(&wrapper_launches, 1, __ATOMIC_RELAXED);
    return next(f, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra);
}
#endif
