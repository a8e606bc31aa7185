// What both kernels of attention read.
#pragma once

#include "types.cuh"

struct AttentionArguments {
    const void *q;
    const void *k;
    const void *v;
    void *out;
    // How many keys each row of the batch has; null where all have all.
    const int *key_counts;
    // From one row of the batch to the next, and from one token to the next, in elements. The values of a head are
    // beside each other, and the heads behind each other.
    long long q_batch, q_token;
    long long kv_batch, kv_token;
    long long out_batch, out_token;
    int queries;
    int keys;
    int heads;
    int head_dim;
    // Of the scores.
    float scale;
    // Whether a query sees the keys up to its own position alone, where the last query has the last key's.
    int causal;
};

// One tile of the queries of one head of one row of the batch.
struct AttentionPlace {
    long long batch;
    int head;
    int first_query;
    // Keys of the row.
    int keys;

    __device__ AttentionPlace(const AttentionArguments &a, int queries_of_tile) {
        const int tiles = (a.queries + queries_of_tile - 1) / queries_of_tile;
        const int pair = blockIdx.x / tiles;
        first_query = blockIdx.x % tiles * queries_of_tile;
        batch = pair / a.heads;
        head = pair % a.heads;
        keys = a.keys;
        if (a.key_counts) {
            const int count = a.key_counts[batch];
            keys = count < 0 ? 0 : count < a.keys ? count : a.keys;
        }
    }

    // How many of the first keys a query sees; less than one where it sees none.
    __device__ int seen(const AttentionArguments &a, int query) const {
        const int before = query + a.keys - a.queries + 1;
        return a.causal && before < keys ? before : keys;
    }

    template <class T> __device__ const T *q(const AttentionArguments &a) const {
        return static_cast<const T *>(a.q) + batch * a.q_batch + first_query * a.q_token + head * a.head_dim;
    }
    template <class T> __device__ const T *kv(const AttentionArguments &a, const void *from) const {
        return static_cast<const T *>(from) + batch * a.kv_batch + head * a.head_dim;
    }
    template <class T> __device__ T *out(const AttentionArguments &a) const {
        return static_cast<T *>(a.out) + batch * a.out_batch + first_query * a.out_token + head * a.head_dim;
    }
};
