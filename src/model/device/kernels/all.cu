// One module of all kernels.
#include "activation.cu"
#include "attention.cu"
#include "attention_f32.cu"
#include "inputs.cu"
#include "layer_norm.cu"
#include "pool.cu"
