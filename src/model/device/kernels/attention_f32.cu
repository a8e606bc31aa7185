// Attention in one kernel for f32, which tensor cores do not multiply exactly.
#include "attention.cuh"

constexpr int WIDE_WARPS = 4;
// Of a warp.
constexpr int WIDE_QUERIES = 4;
// A tile of keys: each lane has one.
constexpr int WIDE_KEYS = WARP;
// The widest head has this many values for each lane.
constexpr int WIDE_COLUMNS = 4;

// Shared memory, in f32: queries `[16][head_dim]`, keys and values `[32][head_dim + 1]`, shares `[16][32]`.
__device__ inline void attention_wide(const AttentionArguments &a) {
    DYNAMIC_SHARED(memory);
    const int dim = a.head_dim, row_of_tile = dim + 1;
    float *q_tile = reinterpret_cast<float *>(memory), *k_tile = q_tile + WIDE_WARPS * WIDE_QUERIES * dim;
    float *v_tile = k_tile + WIDE_KEYS * row_of_tile, *shares = v_tile + WIDE_KEYS * row_of_tile;
    const AttentionPlace place(a, WIDE_WARPS * WIDE_QUERIES);
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * WIDE_QUERIES;
    const float *q = place.q<float>(a), *k = place.kv<float>(a, a.k), *v = place.kv<float>(a, a.v);
    const int left = a.queries - place.first_query;
    const int queries = left < WIDE_WARPS * WIDE_QUERIES ? left : WIDE_WARPS * WIDE_QUERIES;
    const int keys = place.seen(a, place.first_query + queries - 1);

    for (int at = threadIdx.x; at < WIDE_WARPS * WIDE_QUERIES * dim; at += blockDim.x)
        q_tile[at] = at / dim < queries ? q[at / dim * a.q_token + at % dim] : 0.0f;
    float out[WIDE_QUERIES][WIDE_COLUMNS] = {}, most[WIDE_QUERIES], sum[WIDE_QUERIES] = {};
    for (int i = 0; i < WIDE_QUERIES; i++) most[i] = MINUS_INFINITY;
    for (int first = 0; first < keys; first += WIDE_KEYS) {
        for (int at = threadIdx.x; at < WIDE_KEYS * dim; at += blockDim.x) {
            const int row = at / dim, column = at % dim;
            const bool is_there = first + row < place.keys;
            const long long from = (first + row) * a.kv_token + column;
            k_tile[row * row_of_tile + column] = is_there ? k[from] : 0.0f;
            v_tile[row * row_of_tile + column] = is_there ? v[from] : 0.0f;
        }
        __syncthreads();
        float scores[WIDE_QUERIES] = {};
        for (int at = 0; at < dim; at++) {
            const float key = k_tile[lane * row_of_tile + at];
#pragma unroll
            for (int i = 0; i < WIDE_QUERIES; i++) scores[i] += q_tile[(own + i) * dim + at] * key;
        }
#pragma unroll
        for (int i = 0; i < WIDE_QUERIES; i++) {
            const bool sees = first + lane < place.seen(a, place.first_query + own + i);
            const float score = sees ? scores[i] * a.scale : MINUS_INFINITY;
            const float greatest = fmaxf(most[i], warp_max(score));
            const float zero = greatest == MINUS_INFINITY ? 0.0f : greatest;
            const float share = expf(score - zero), correction = expf(most[i] - zero);
            most[i] = greatest;
            sum[i] = sum[i] * correction + share;
            shares[(own + i) * WIDE_KEYS + lane] = share;
#pragma unroll
            for (int c = 0; c < WIDE_COLUMNS; c++) out[i][c] *= correction;
        }
        __syncwarp();
        for (int key = 0; key < WIDE_KEYS; key++)
#pragma unroll
            for (int c = 0; c < WIDE_COLUMNS; c++) {
                const int column = c * WARP + lane;
                if (column >= dim) continue;
                const float value = v_tile[key * row_of_tile + column];
#pragma unroll
                for (int i = 0; i < WIDE_QUERIES; i++) out[i][c] += shares[(own + i) * WIDE_KEYS + key] * value;
            }
        __syncthreads();
    }
    float *to = place.out<float>(a);
    for (int i = 0; i < WIDE_QUERIES; i++) {
        const float whole = warp_sum(sum[i]);
        if (own + i >= queries) continue;
        const bool sees = place.seen(a, place.first_query + own + i) > 0;
#pragma unroll
        for (int c = 0; c < WIDE_COLUMNS; c++) {
            const int column = c * WARP + lane;
            if (column < dim) to[(own + i) * a.out_token + column] = sees ? out[i][c] / whole : 0.0f;
        }
    }
}

extern "C" __global__ void __launch_bounds__(WIDE_WARPS *WARP) attention_f32(AttentionArguments a) { attention_wide(a); }
