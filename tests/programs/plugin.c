/* A library linked to the driver: launches, and finds the driver in the scope in which it is itself. */
#include "program.h"

int run(void)
{
    CUresult (*init)(unsigned) = (CUresult (*)(unsigned))dlsym(RTLD_DEFAULT, "cuInit");
    CUdeviceptr a, b, sum;

    if (init == NULL)
        return 1;
    if (init(0) != 0)
        return 2;
    make_context();
    load_kernels();
    a = device_floats(100, 1);
    b = device_floats(100, 2);
    sum = device_floats(100, 0);
    for (int i = 0; i < 10; i++)
        CHECK(launch_add(a, b, sum, 100, NULL));
    return all_are(sum, 100, 3) ? 42 : 3;
}
