/* Compares driver.h with the header of a CUDA toolkit: cc -std=c11 -fsyntax-only -I.../include layout_check.c */
#define Driver UnusedDriver
#include "driver.h"
#include <cuda.h>

#define SAME(ours, theirs) _Static_assert(sizeof(ours) == sizeof(theirs), #ours " is as large as " #theirs)
SAME(AllocationProp, CUmemAllocationProp);
SAME(AccessDesc, CUmemAccessDesc);
SAME(PoolProps, CUmemPoolProps);
SAME(CopyAttributes, CUmemcpyAttributes);
SAME(LaunchConfig, CUlaunchConfig);
SAME(Copy2D, CUDA_MEMCPY2D);
SAME(Copy3D, CUDA_MEMCPY3D);
SAME(BatchMemOp, CUstreamBatchMemOpParams);
SAME(InstantiateParams, CUDA_GRAPH_INSTANTIATE_PARAMS);
