// Layer normalisation, with the residual in front of it where a product could not add it.
#include "types.cuh"

struct LayerNormArguments {
    const void *x;
    // Added to `x`; null where there is none.
    const void *residual;
    // Takes `x + residual`, which the next residual is; null where nobody reads it.
    void *sum;
    void *y;
    const void *weight;
    const void *bias;
    // From one row of `x` to the next, in elements. The rows of all others lie behind each other.
    long long x_stride;
    int rows;
    int width;
    float eps;
};

// A row is kept in registers up to this width.
constexpr int NORM_VECTORS = 8;
constexpr int WIDEST_KEPT = NORM_VECTORS * WARP * VECTOR;

// Each warp has a row. The variance is that of the centred values, which survives a large mean.
template <class T> __device__ void norm_row_kept(const LayerNormArguments &a, int row, int lane) {
    const T *x = static_cast<const T *>(a.x) + row * a.x_stride;
    const long long start = static_cast<long long>(row) * a.width;
    float values[NORM_VECTORS][VECTOR];
    float sum = 0;
#pragma unroll
    for (int step = 0; step < NORM_VECTORS; step++) {
        const int at = (step * WARP + lane) * VECTOR;
        if (at >= a.width) continue;
        load_vector(values[step], x + at);
        if (a.residual) {
            float residual[VECTOR];
            load_vector(residual, static_cast<const T *>(a.residual) + start + at);
#pragma unroll
            // Rounded as the residual that the next layer reads is.
            for (int i = 0; i < VECTOR; i++) values[step][i] = widen(narrow<T>(values[step][i] + residual[i]));
        }
        if (a.sum) store_vector(static_cast<T *>(a.sum) + start + at, values[step]);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) sum += values[step][i];
    }
    const float mean = warp_sum(sum) / a.width;
    float squares = 0;
#pragma unroll
    for (int step = 0; step < NORM_VECTORS; step++) {
        if ((step * WARP + lane) * VECTOR >= a.width) continue;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            values[step][i] -= mean;
            squares += values[step][i] * values[step][i];
        }
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / a.width + a.eps);
#pragma unroll
    for (int step = 0; step < NORM_VECTORS; step++) {
        const int at = (step * WARP + lane) * VECTOR;
        if (at >= a.width) continue;
        float weight[VECTOR], bias[VECTOR];
        load_vector(weight, static_cast<const T *>(a.weight) + at);
        load_vector(bias, static_cast<const T *>(a.bias) + at);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) values[step][i] = values[step][i] * scale * weight[i] + bias[i];
        store_vector(static_cast<T *>(a.y) + start + at, values[step]);
    }
}

// The same for any width and alignment, with the row read three times.
template <class T> __device__ void norm_row_reread(const LayerNormArguments &a, int row, int lane) {
    const T *x = static_cast<const T *>(a.x) + row * a.x_stride;
    const long long start = static_cast<long long>(row) * a.width;
    const T *residual = a.residual ? static_cast<const T *>(a.residual) + start : nullptr;
    const auto value = [&](int at) {
        return residual ? widen(narrow<T>(widen(x[at]) + widen(residual[at]))) : widen(x[at]);
    };
    float sum = 0;
    for (int at = lane; at < a.width; at += WARP) sum += value(at);
    const float mean = warp_sum(sum) / a.width;
    float squares = 0;
    for (int at = lane; at < a.width; at += WARP) squares += (value(at) - mean) * (value(at) - mean);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / a.width + a.eps);
    for (int at = lane; at < a.width; at += WARP) {
        const float whole = value(at);
        const float weight = widen(static_cast<const T *>(a.weight)[at]);
        const float bias = widen(static_cast<const T *>(a.bias)[at]);
        static_cast<T *>(a.y)[start + at] = narrow<T>((whole - mean) * scale * weight + bias);
        // Behind the last read of it: `sum` may be `x` or `residual` themselves.
        if (a.sum) static_cast<T *>(a.sum)[start + at] = narrow<T>(whole);
    }
}

template <class T> __device__ void layer_norm(const LayerNormArguments &a) {
    const int lane = threadIdx.x % WARP;
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= a.rows) return;
    const int size = sizeof(T);
    const bool whole_vectors = a.width % VECTOR == 0 && a.width <= WIDEST_KEPT && is_aligned(a.x, a.x_stride, size) &&
                               is_aligned(a.residual, a.width, size) && is_aligned(a.sum, a.width, size) &&
                               is_aligned(a.y, a.width, size) && is_aligned(a.weight, 0, size) &&
                               is_aligned(a.bias, 0, size);
    if (whole_vectors)
        norm_row_kept<T>(a, row, lane);
    else
        norm_row_reread<T>(a, row, lane);
}

#define LAYER_NORM(name, T) \
    extern "C" __global__ void __launch_bounds__(128) layer_norm_##name(LayerNormArguments a) { layer_norm<T>(a); }
FOR_EACH_TYPE(LAYER_NORM)
