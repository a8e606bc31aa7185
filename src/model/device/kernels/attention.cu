// Attention in one kernel for 16-bit types, on tensor cores: the scores of a tile of keys never leave the chip, and the
// softmax is corrected as greater scores come.
#include "attention.cuh"
#include "matrix.cuh"

constexpr int TILE_QUERIES = 64;
constexpr int TILE_KEYS = 64;
// Of a block. Each has 16 of the queries.
constexpr int ATTENTION_WARPS = TILE_QUERIES / 16;
constexpr float LOG2_E = 1.4426950408889634f;

// Values of a row in shared memory: eight more than it has, so that the rows of a matrix lie in different banks.
template <int DIM> constexpr int PADDED = DIM + 8;

// Begins to copy rows of a head; what is beyond them, or beyond the head, is zero.
template <class T, int DIM>
__device__ inline void begin_rows(T *to, const T *from, long long stride, int rows, int head_dim) {
    constexpr int VECTORS = DIM / VECTOR;
    static_assert(TILE_QUERIES == TILE_KEYS, "both kinds of tile are copied here");
    if (head_dim % VECTOR == 0 && is_aligned(from, stride, sizeof(T))) {
        for (int at = threadIdx.x; at < TILE_KEYS * VECTORS; at += ATTENTION_WARPS * WARP) {
            const int row = at / VECTORS, column = at % VECTORS * VECTOR;
            T *target = to + row * PADDED<DIM> + column;
            if (row < rows && column < head_dim)
                begin_copy(target, from + row * stride + column);
            else
                *reinterpret_cast<uint4 *>(target) = uint4{0, 0, 0, 0};
        }
        return;
    }
    for (int at = threadIdx.x; at < TILE_KEYS * DIM; at += ATTENTION_WARPS * WARP) {
        const int row = at / DIM, column = at % DIM;
        to[row * PADDED<DIM> + column] =
            row < rows && column < head_dim ? from[row * stride + column] : narrow<T>(0.0f);
    }
}

// Where a lane stands in what a warp multiplies: it has values of the rows `row` and `row + 8`, in the columns `column`
// and `column + 1` of each 8.
struct Lane {
    int number = threadIdx.x % WARP;
    int row = number / 4;
    int column = number % 4 * 2;
};

// The running softmax of the two rows of queries that a lane has values of.
struct Softmax {
    float most[2] = {MINUS_INFINITY, MINUS_INFINITY};
    // Of this lane's columns alone.
    float sum[2] = {0, 0};

    // Makes shares of scores, and gives what all shares before are to be multiplied with.
    __device__ void take(float (&scores)[TILE_KEYS / 8][4], float scale, float (&correction)[2]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float greatest = most[half];
#pragma unroll
            for (int tile = 0; tile < TILE_KEYS / 8; tile++)
                greatest = fmaxf(greatest, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
            // Four lanes have the rest of the row.
            greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 2));
            // Nothing is taken from minus infinity, which would give no number where there was one.
            const float zero = greatest == MINUS_INFINITY ? 0.0f : greatest * scale;
            correction[half] = power_of_two(most[half] * scale - zero);
            most[half] = greatest;
            sum[half] *= correction[half];
#pragma unroll
            for (int tile = 0; tile < TILE_KEYS / 8; tile++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[tile][i] = power_of_two(scores[tile][i] * scale - zero);
                    sum[half] += scores[tile][i];
                }
        }
    }

    __device__ float whole(int half) const {
        float whole = sum[half];
        whole += __shfl_xor_sync(~0u, whole, 1);
        return whole + __shfl_xor_sync(~0u, whole, 2);
    }
};

// Shared memory: a tile of queries, two of keys and two of values, each `[64][PADDED<DIM>]`.
template <class T, int DIM> __device__ void attention_16(const AttentionArguments &a) {
    constexpr int ROW = PADDED<DIM>, TILE = TILE_KEYS * ROW, STEPS = DIM / 16;
    DYNAMIC_SHARED(memory);
    T *q_tile = reinterpret_cast<T *>(memory), *k_tiles = q_tile + TILE, *v_tiles = k_tiles + 2 * TILE;
    const AttentionPlace place(a, TILE_QUERIES);
    const Lane lane;
    const int own = threadIdx.x / WARP * 16;
    const T *k = place.kv<T>(a, a.k), *v = place.kv<T>(a, a.v);
    const int left = a.queries - place.first_query;
    const int queries = left < TILE_QUERIES ? left : TILE_QUERIES;
    // Keys that the last query sees; no other sees more.
    const int keys = place.seen(a, place.first_query + queries - 1);
    const int tiles = keys > 0 ? (keys + TILE_KEYS - 1) / TILE_KEYS : 0;

    const auto begin_tile = [&](int tile) {
        const int first = tile * TILE_KEYS;
        T *k_tile = k_tiles + tile % 2 * TILE, *v_tile = v_tiles + tile % 2 * TILE;
        begin_rows<T, DIM>(k_tile, k + first * a.kv_token, a.kv_token, place.keys - first, a.head_dim);
        begin_rows<T, DIM>(v_tile, v + first * a.kv_token, a.kv_token, place.keys - first, a.head_dim);
    };

    uint32_t q[STEPS][4];
    float out[DIM / 8][4] = {};
    Softmax softmax;
    if (tiles > 0) {
        begin_rows<T, DIM>(q_tile, place.q<T>(a), a.q_token, queries, a.head_dim);
        begin_tile(0);
    }
    end_group();
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) begin_tile(tile + 1);
        end_group();
        wait_groups<1>();
        __syncthreads();
        if (tile == 0)
#pragma unroll
            for (int step = 0; step < STEPS; step++)
                load_matrices(q[step], q_tile + (own + lane.number % 16) * ROW + step * 16 + lane.number / 16 * 8);
        const T *k_tile = k_tiles + tile % 2 * TILE, *v_tile = v_tiles + tile % 2 * TILE;

        float scores[TILE_KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int keys16 = 0; keys16 < TILE_KEYS / 16; keys16++) {
                uint32_t b[4];
                const int key = keys16 * 16 + lane.number / 16 * 8 + lane.number % 8;
                load_matrices(b, k_tile + key * ROW + step * 16 + lane.number / 8 % 2 * 8);
                multiply<T>(scores[2 * keys16], q[step], b[0], b[1]);
                multiply<T>(scores[2 * keys16 + 1], q[step], b[2], b[3]);
            }
        const int first = tile * TILE_KEYS;
        if (first + TILE_KEYS > place.seen(a, place.first_query)) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int query = place.first_query + own + lane.row + i / 2 * 8;
                const int seen = place.seen(a, query);
#pragma unroll
                for (int tile8 = 0; tile8 < TILE_KEYS / 8; tile8++)
                    if (first + tile8 * 8 + lane.column + i % 2 >= seen) scores[tile8][i] = MINUS_INFINITY;
            }
        }
        float correction[2];
        softmax.take(scores, a.scale * LOG2_E, correction);
#pragma unroll
        for (int tile8 = 0; tile8 < DIM / 8; tile8++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[tile8][i] *= correction[i / 2];
#pragma unroll
        for (int keys16 = 0; keys16 < TILE_KEYS / 16; keys16++) {
            const float(&left8)[4] = scores[2 * keys16], (&right8)[4] = scores[2 * keys16 + 1];
            const uint32_t shares[4] = {pair<T>(left8[0], left8[1]), pair<T>(left8[2], left8[3]),
                                        pair<T>(right8[0], right8[1]), pair<T>(right8[2], right8[3])};
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                uint32_t b[4];
                const int key = keys16 * 16 + lane.number % 16;
                load_transposed(b, v_tile + key * ROW + step * 16 + lane.number / 16 * 8);
                multiply<T>(out[2 * step], shares, b[0], b[1]);
                multiply<T>(out[2 * step + 1], shares, b[2], b[3]);
            }
        }
        // The next tile but one goes where this one was.
        __syncthreads();
    }
    wait_groups<0>();

    T *to = place.out<T>(a);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float whole = softmax.whole(half);
        const int query = own + lane.row + half * 8;
        if (query >= queries) continue;
        // A query that sees no key has no mean: it gets zeros. Where it sees some, what is no number stays none.
        const bool sees = place.seen(a, place.first_query + query) > 0;
        const float share = 1.0f / whole;
#pragma unroll
        for (int tile8 = 0; tile8 < DIM / 8; tile8++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int column = tile8 * 8 + lane.column + i;
                if (column < a.head_dim)
                    to[query * a.out_token + column] = narrow<T>(sees ? out[tile8][2 * half + i] * share : 0.0f);
            }
    }
}

#define ATTENTION(name, T, dim) \
    extern "C" __global__ void __launch_bounds__(ATTENTION_WARPS * WARP) \
        attention_##name##_##dim(AttentionArguments a) { \
        attention_16<T, dim>(a); \
    }
#define ATTENTIONS(dim) ATTENTION(f16, f16, dim) ATTENTION(bf16, bf16, dim)
ATTENTIONS(16)
ATTENTIONS(32)
ATTENTIONS(64)
ATTENTIONS(80)
ATTENTIONS(96)
ATTENTIONS(128)
