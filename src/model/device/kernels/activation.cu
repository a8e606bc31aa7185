// The activations that no product has as its end, with a bias in front of them.
#include "types.cuh"

struct ActivationArguments {
    // Changed in place: `[rows, width]`.
    void *x;
    // `[width]`, or null.
    const void *bias;
    long long count;
    int width;
    // 0: GELU by tanh, 1: GELU by erf, 2: quick GELU.
    int kind;
};

__device__ inline float activated(float x, int kind) {
    if (kind == 0) {
        const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
        return 0.5f * x * (1.0f + tanhf(inner));
    }
    if (kind == 1) return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    return x / (1.0f + expf(-1.702f * x));
}

template <class T> __device__ void activate(const ActivationArguments &a) {
    T *x = static_cast<T *>(a.x);
    const T *bias = static_cast<const T *>(a.bias);
    const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long first = thread * VECTOR;
    const bool whole_vectors =
        a.width % VECTOR == 0 && is_aligned(x, 0, sizeof(T)) && is_aligned(bias, 0, sizeof(T));
    if (whole_vectors && first + VECTOR <= a.count) {
        float values[VECTOR], added[VECTOR] = {};
        load_vector(values, x + first);
        if (bias) load_vector(added, bias + first % a.width);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) values[i] = activated(values[i] + added[i], a.kind);
        store_vector(x + first, values);
        return;
    }
    for (long long at = first; at < first + VECTOR && at < a.count; at++) {
        const float added = bias ? widen(bias[at % a.width]) : 0.0f;
        x[at] = narrow<T>(activated(widen(x[at]) + added, a.kind));
    }
}

#define ACTIVATE(name, T) \
    extern "C" __global__ void __launch_bounds__(256) activate_##name(ActivationArguments a) { activate<T>(a); }
FOR_EACH_TYPE(ACTIVATE)
