/* A program linked to the driver that has loaded another copy of one before it makes its first call: in a namespace of
 * its own (dlmopen) or simply from another file. The two must not be mixed up. */
#include "program.h"

int main(int argc, char **argv)
{
    void *other;
    CUresult (*init)(unsigned);
    CUresult (*count)(int *);
    CUresult (*version)(int *);
    CUdeviceptr a, b, sum;
    int devices = 0, known = 0;

    (void)argc;
    other = strcmp(argv[1], "dlmopen") == 0 ? dlmopen(LM_ID_NEWLM, argv[2], RTLD_NOW) : dlopen(argv[2], RTLD_NOW);
    if (other == NULL) {
        puts(dlerror());
        return 1;
    }
    init = (CUresult (*)(unsigned))dlsym(other, "cuInit");
    count = (CUresult (*)(int *))dlsym(other, "cuDeviceGetCount");
    version = (CUresult (*)(int *))dlsym(other, "cuDriverGetVersion");
    CHECK(init(0));
    CHECK(count(&devices));
    CHECK(version(&known));
    printf("the other: %d devices, version %d\n", devices, known);
    make_context();
    CHECK(cuDriverGetVersion(&known));
    printf("the linked one: version %d\n", known);
    load_kernels();
    a = device_floats(10, 1);
    b = device_floats(10, 2);
    sum = device_floats(10, 0);
    CHECK(launch_add(a, b, sum, 10, NULL));
    ASSERT(all_are(sum, 10, 3));
    CHECK(init(0));
    puts("right");
    return 0;
}
