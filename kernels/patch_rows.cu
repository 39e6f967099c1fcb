// Pictures -> rows of the patch product: what it computes is said, and done plainly, in patch_rows.py.
//
// SIZE and PATCH are macros. Blocks (x, y): x over the 16-byte vectors of one image's rows, y over images.
// A thread makes one vector, eight numbers, so a warp stores 512 bytes in a row; it reads its pixels byte by
// byte, which the cache serves: each line of 32 bytes leaves device memory once.

#include <cuda_fp16.h>

constexpr int kGrid = SIZE / PATCH;
constexpr int kLine = 3 * PATCH;              // numbers in one line of a patch
constexpr int kNumbers = kLine * PATCH;       // and in all of it
constexpr int kVectors = (kNumbers + 7) / 8;  // of a row: 74 for patches of 14
constexpr int kImageVectors = kGrid * kGrid * kVectors;

struct alignas(16) Vector {
    __half number[8];
};

extern "C" __global__ void patch_rows(const unsigned char *__restrict__ pixels, const int *__restrict__ images,
                                      const float *__restrict__ scale_shift, Vector *__restrict__ out) {
    const int place = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (place >= kImageVectors) return;
    const int image = static_cast<int>(blockIdx.y);
    const int patch = place / kVectors, first = 8 * (place % kVectors);
    const int y = patch / kGrid * PATCH + first / kLine;
    int x = first % kLine;
    const unsigned char *value = pixels + static_cast<size_t>(images[image]) * (3 * SIZE * SIZE) +
                                 (y * 3 * SIZE + patch % kGrid * kLine + x);
    Vector vector;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (first + i >= kNumbers) {
            vector.number[i] = __float2half_rn(0.0f);
            continue;
        }
        const float scale = scale_shift[x % 3], shift = scale_shift[3 + x % 3];
        // Not fused into one rounding: the same number as the reference's, to the bit.
        vector.number[i] = __float2half_rn(__fadd_rn(__fmul_rn(static_cast<float>(*value), scale), shift));
        ++value;
        if (++x == kLine) {
            x = 0;
            value += 3 * SIZE - kLine;
        }
    }
    out[static_cast<size_t>(image) * kImageVectors + place] = vector;
}
