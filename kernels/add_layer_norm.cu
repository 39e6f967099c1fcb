// residual + delta and its LayerNorm in one pass: what it computes is said, and done plainly, in add_layer_norm.py.
//
// WIDTH is a macro. One row a warp: the row stays in registers between the two sums, which are added up by
// shuffles alone. In place: the sum goes to residual and its LayerNorm to delta, each vector written by the
// lane that has read it.

#include <cuda_fp16.h>

static_assert(WIDTH % 256 == 0, "a warp takes a row in whole 16-byte vectors");
constexpr int kVectors = WIDTH / 256;             // of a row, for each lane

struct alignas(16) Vector {
    __half number[8];
};

__device__ float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

extern "C" __global__ void add_layer_norm(Vector *__restrict__ residual, Vector *__restrict__ delta,
                                          const Vector *__restrict__ weight, const Vector *__restrict__ bias,
                                          float eps, int rows) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
    if (row >= rows) return;  // the whole warp
    const size_t first = static_cast<size_t>(row) * (WIDTH / 8) + lane;

    // All loads before the first sum: as many bytes on their way as a warp can have, which is what bounds this.
    Vector total[kVectors], added[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
        total[v] = residual[first + 32 * v];
        added[v] = delta[first + 32 * v];
    }

    float values[kVectors][8];
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            // Rounded before it is normed: the reference norms the sum that it stores.
            total[v].number[i] = __float2half_rn(__half2float(total[v].number[i]) + __half2float(added[v].number[i]));
            values[v][i] = __half2float(total[v].number[i]);
            sum += values[v][i];
        }
        residual[first + 32 * v] = total[v];
    }

    // The squares of what is left of the mean, not the mean of squares: no cancellation in float32.
    const float mean = warp_sum(sum) / WIDTH;
    float squares = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += (values[v][i] - mean) * (values[v][i] - mean);
    }
    const float inverse = rsqrtf(warp_sum(squares) / WIDTH + eps);

#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
        const Vector scale = weight[lane + 32 * v], shift = bias[lane + 32 * v];
        Vector vector;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            vector.number[i] = __float2half_rn((values[v][i] - mean) * inverse * __half2float(scale.number[i]) +
                                               __half2float(shift.number[i]));
        }
        delta[first + 32 * v] = vector;
    }
}
