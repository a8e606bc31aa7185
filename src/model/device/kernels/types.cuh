// The element types of activations, and what the kernels do with them: sums are in f32, whatever the type.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// Memory that a block shares, as much as its launch asks for.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

using f16 = __half;
using bf16 = __nv_bfloat16;

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(f16 value) { return __half2float(value); }
__device__ inline float widen(bf16 value) { return __bfloat162float(value); }

template <class T> __device__ inline T narrow(float value);
template <> __device__ inline float narrow<float>(float value) { return value; }
template <> __device__ inline f16 narrow<f16>(float value) { return __float2half_rn(value); }
template <> __device__ inline bf16 narrow<bf16>(float value) { return __float2bfloat16_rn(value); }
#else
// Plain C++ in the place of a device: tests/cuda/host.
#include "emulator.h"
#endif

constexpr int WARP = 32;
constexpr float MINUS_INFINITY = -__builtin_huge_valf();

// Sixteen bytes, or two times as many in f32: what one thread loads at once.
constexpr int VECTOR = 8;

// Whether 16 bytes can be read or written at once where a pointer leads, and at whole multiples of `stride` behind it.
__device__ inline bool is_aligned(const void *pointer, long long stride, int size) {
    return (reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(stride * size)) % 16 == 0;
}

template <class T> __device__ inline void load_vector(float (&values)[VECTOR], const T *from) {
    constexpr int PER_WORD = 16 / sizeof(T);
    for (int word = 0; word < VECTOR / PER_WORD; word++) {
        const uint4 bytes = reinterpret_cast<const uint4 *>(from)[word];
        T parts[PER_WORD];
        memcpy(parts, &bytes, 16);
#pragma unroll
        for (int part = 0; part < PER_WORD; part++) values[word * PER_WORD + part] = widen(parts[part]);
    }
}

template <class T> __device__ inline void store_vector(T *to, const float (&values)[VECTOR]) {
    constexpr int PER_WORD = 16 / sizeof(T);
    for (int word = 0; word < VECTOR / PER_WORD; word++) {
        T parts[PER_WORD];
#pragma unroll
        for (int part = 0; part < PER_WORD; part++) parts[part] = narrow<T>(values[word * PER_WORD + part]);
        uint4 bytes;
        memcpy(&bytes, parts, 16);
        reinterpret_cast<uint4 *>(to)[word] = bytes;
    }
}

// The sum over a warp, which every lane gets.
__device__ inline float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
    return value;
}

// The greatest of a warp, which every lane gets. It leaves out values that are no numbers.
__device__ inline float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(~0u, value, distance));
    return value;
}

// An entry point for each of the types.
#define FOR_EACH_TYPE(ENTRY) ENTRY(f32, float) ENTRY(f16, f16) ENTRY(bf16, bf16)
