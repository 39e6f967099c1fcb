// Stands for CUDA's header of this name, so that a kernel's source runs on the host as it is.
//
// The lanes of a warp are fibers: each runs until it shuffles or ends, then the next one does, and a shuffle
// is complete when every lane has come to it. What no source here uses is not here: barriers, shared memory.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

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
inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }

struct Lane {
    ucontext_t context;
    char stack[1 << 16];
    bool ended;
    float shown;  // to the other lanes, in a shuffle
};
static Lane lanes[32];
static ucontext_t scheduler;
static unsigned lane;
static void (*lane_body)();

inline void meet() { swapcontext(&lanes[lane].context, &scheduler); }

inline float __shfl_xor_sync(unsigned mask, float value, int distance) {
    if (mask != 0xffffffffu) abort();
    lanes[lane].shown = value;
    meet();
    const float other = lanes[lane ^ static_cast<unsigned>(distance)].shown;
    meet();
    return other;
}

inline void run_lane() {
    lane_body();
    lanes[lane].ended = true;
}

inline void run_warp(unsigned first) {
    for (lane = 0; lane < 32; ++lane) {
        Lane &own = lanes[lane];
        own.ended = false;
        getcontext(&own.context);
        own.context.uc_stack.ss_sp = own.stack;
        own.context.uc_stack.ss_size = sizeof own.stack;
        own.context.uc_link = &scheduler;
        makecontext(&own.context, run_lane, 0);
    }
    for (unsigned ended = 0; ended < 32;) {
        ended = 0;
        for (lane = 0; lane < 32; ++lane) {
            threadIdx.x = first + lane;
            swapcontext(&scheduler, &lanes[lane].context);
            ended += lanes[lane].ended;
        }
        if (ended % 32 != 0) {
            fprintf(stderr, "%u lanes of a warp ended before a shuffle of all 32\n", ended);
            abort();
        }
    }
}

template <class... Values>
struct Call {
    inline static void (*kernel)(Values...);
    inline static void **arguments;

    template <size_t... at>
    static void expand(std::index_sequence<at...>) {
        kernel(*static_cast<Values *>(arguments[at])...);
    }
    static void body() { expand(std::index_sequence_for<Values...>{}); }
};

// Runs a kernel over a grid of x * y blocks of whole warps; arguments point to values, as for cudaLaunchKernel.
template <class... Values>
void launch(void (*kernel)(Values...), unsigned x, unsigned y, unsigned threads, void **arguments) {
    Call<Values...>::kernel = kernel;
    Call<Values...>::arguments = arguments;
    lane_body = Call<Values...>::body;
    blockDim = {threads, 1};
    for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x)
            for (unsigned first = 0; first < threads; first += 32) run_warp(first);
}
