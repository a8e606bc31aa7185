// The attention of a pooling head: each of its heads has one query, which reads whole tokens, since the projection of
// the keys is folded into it.
#include "types.cuh"

struct PoolArguments {
    // `[heads, width]`
    const void *queries;
    // `[batch, tokens, width]`
    const void *x;
    // `[batch, heads, width]`: the mean of the tokens by the softmax of their scores.
    void *out;
    int tokens;
    int width;
    int heads;
    float scale;
};

// Of a block: the tokens that it reads serve all of them.
constexpr int POOL_HEADS = 4;

// Shared memory: scores, `[POOL_HEADS][tokens]` in f32.
template <class T> __device__ void pool(const PoolArguments &a) {
    DYNAMIC_SHARED(memory);
    float *scores = reinterpret_cast<float *>(memory);
    const int first = blockIdx.x * POOL_HEADS;
    const int heads = a.heads - first < POOL_HEADS ? a.heads - first : POOL_HEADS;
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    const T *queries = static_cast<const T *>(a.queries) + static_cast<long long>(first) * a.width;
    const T *x = static_cast<const T *>(a.x) + static_cast<long long>(blockIdx.y) * a.tokens * a.width;
    for (int token = warp; token < a.tokens; token += warps) {
        float sums[POOL_HEADS] = {};
        for (int at = lane; at < a.width; at += WARP) {
            const float value = widen(x[static_cast<long long>(token) * a.width + at]);
#pragma unroll
            for (int head = 0; head < POOL_HEADS; head++)
                if (head < heads) sums[head] += value * widen(queries[head * a.width + at]);
        }
#pragma unroll
        for (int head = 0; head < POOL_HEADS; head++) {
            const float sum = warp_sum(sums[head]);
            if (lane == 0 && head < heads) scores[head * a.tokens + token] = sum * a.scale;
        }
    }
    __syncthreads();
    if (warp < heads) {
        float *row = scores + warp * a.tokens;
        float most = MINUS_INFINITY, sum = 0;
        for (int token = lane; token < a.tokens; token += WARP) most = fmaxf(most, row[token]);
        most = warp_max(most);
        for (int token = lane; token < a.tokens; token += WARP) {
            row[token] = expf(row[token] - most);
            sum += row[token];
        }
        const float share = 1.0f / warp_sum(sum);
        for (int token = lane; token < a.tokens; token += WARP) row[token] *= share;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < a.width; at += blockDim.x) {
        float means[POOL_HEADS] = {};
#pragma unroll 8
        for (int token = 0; token < a.tokens; token++) {
            const float value = widen(x[static_cast<long long>(token) * a.width + at]);
#pragma unroll
            for (int head = 0; head < POOL_HEADS; head++)
                if (head < heads) means[head] += value * scores[head * a.tokens + token];
        }
        T *out = static_cast<T *>(a.out) + (static_cast<long long>(blockIdx.y) * a.heads + first) * a.width;
        for (int head = 0; head < heads; head++) out[head * a.width + at] = narrow<T>(means[head]);
    }
}

#define POOL(name, T) \
    extern "C" __global__ void __launch_bounds__(256) pool_##name(PoolArguments a) { pool<T>(a); }
FOR_EACH_TYPE(POOL)

struct OwnHeadsArguments {
    // `[batch, heads, width]`
    const void *values;
    // `[batch, width]`: of each head its own part.
    void *out;
    int batch;
    int heads;
    int width;
};

template <class T> __device__ void own_heads(const OwnHeadsArguments &a) {
    const long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= static_cast<long long>(a.batch) * a.width) return;
    const long long row = at / a.width;
    const int column = at % a.width, head = column / (a.width / a.heads);
    static_cast<T *>(a.out)[at] = static_cast<const T *>(a.values)[(row * a.heads + head) * a.width + column];
}

#define OWN_HEADS(name, T) \
    extern "C" __global__ void __launch_bounds__(256) own_heads_##name(OwnHeadsArguments a) { own_heads<T>(a); }
FOR_EACH_TYPE(OWN_HEADS)
