// Stands for CUDA's header of this name, so that a kernel's source runs on the host as it is.
//
// Threads run one after another. What no source here uses is not here: shuffles, barriers, shared memory.
#pragma once

#include <stddef.h>

#include <utility>

#define __global__
#define __device__ inline

struct Index {
    unsigned x, y;
};
static Index blockIdx, threadIdx, blockDim;

struct __half {
    _Float16 value;
};
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }
inline float __half2float(__half half) { return static_cast<float>(half.value); }
inline float __fmul_rn(float a, float b) { return a * b; }  // compiled with -ffp-contract=off: never fused
inline float __fadd_rn(float a, float b) { return a + b; }

// Runs a kernel over a grid of x * y blocks; arguments point to values, as for cudaLaunchKernel.
template <class... Values, size_t... at>
void run(void (*kernel)(Values...), unsigned x, unsigned y, void **arguments, std::index_sequence<at...>) {
    for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
                kernel(*static_cast<Values *>(arguments[at])...);
}

template <class... Values>
void launch(void (*kernel)(Values...), unsigned x, unsigned y, unsigned threads, void **arguments) {
    blockDim = {threads, 1};
    run(kernel, x, y, arguments, std::index_sequence_for<Values...>{});
}
