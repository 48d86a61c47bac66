// The update of all dense variables in one launch, and a small one that finishes it.
//
// Each operation is rounded once (__fmul_rn etc. are never contracted), in the order of
// training/optimizers.py: SGD and Adagrad equal TensorFlow's results on a CPU bit for bit.
#include "dense_update/dense_update_launchers.h"

#include "cuda_primitives.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kThreads = 256, kVec = 4;
constexpr int64_t kUnit = kThreads * kVec;  // elements of one variable that a block takes at once
constexpr int kMostStates = 2;

// Numbers of elements are cumulative: variable i has the elements [start[i], start[i + 1]) of all
// variables together and the units [first_unit[i], first_unit[i + 1]); piece p ends at
// piece_end[p].
struct UpdatePlan {
  float* variable[DLRM_DENSE_MOST];
  float* state[kMostStates][DLRM_DENSE_MOST];
  const float* piece[DLRM_DENSE_MOST];
  int64_t start[DLRM_DENSE_MOST + 1];
  int64_t piece_end[DLRM_DENSE_MOST];
  int first_unit[DLRM_DENSE_MOST + 1];
  int variables;
  float hyperparameters[DLRM_DENSE_HYPERPARAMETERS];
  const int64_t* iteration;
  const float *learning_rate, *loss_scale;
  const unsigned char* finite;
  int* blocks;   // [1], number of blocks
  int* damaged;  // [blocks], whether a block has found an element that is infinite or NaN
};
static_assert(sizeof(UpdatePlan) <= 4096, "kernel parameters before CUDA 12.1 and sm_70");

__host__ __device__ constexpr int states_of(int optimizer) {
  return optimizer == DLRM_DENSE_SGD ? 0 : optimizer == DLRM_DENSE_ADAGRAD ? 1 : 2;
}

__device__ __forceinline__ bool is_finite(float value) {
  return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

// The scalars of an update. `rate` is Adam's step size for Adam, whose averages decay by `decay1`
// and `decay2`.
struct Factors {
  float rate, scale, epsilon, decay1, decay2;
};

// base^exponent, the float nearest to it: float32's pow differs between libraries, and 1 - power
// magnifies the difference.
__device__ __forceinline__ float power_of(float base, int64_t exponent) {
  double result = 1.0, square = base;
  for (; exponent > 0; exponent /= 2, square *= square) {
    if (exponent % 2 != 0) result *= square;
  }
  return static_cast<float>(result);
}

__device__ __forceinline__ float adam_rate(const float* hyperparameters, float rate, int64_t step) {
  const float root = __fsqrt_rn(__fsub_rn(1.0f, power_of(hyperparameters[1], step)));
  return __fdiv_rn(__fmul_rn(rate, root), __fsub_rn(1.0f, power_of(hyperparameters[0], step)));
}

// One element and its states.
template <int kOptimizer>
__device__ __forceinline__ void update_element(float* weight, float* states, float piece,
                                               const Factors& factors) {
  const float gradient = __fdiv_rn(piece, factors.scale);
  if constexpr (kOptimizer == DLRM_DENSE_SGD) {
    *weight = __fsub_rn(*weight, __fmul_rn(gradient, factors.rate));
  } else if constexpr (kOptimizer == DLRM_DENSE_ADAGRAD) {
    states[0] = __fadd_rn(states[0], __fmul_rn(gradient, gradient));
    const float root = __fadd_rn(__fsqrt_rn(states[0]), factors.epsilon);
    *weight = __fsub_rn(*weight, __fdiv_rn(__fmul_rn(factors.rate, gradient), root));
  } else {
    const float square = __fmul_rn(gradient, gradient);
    states[0] = __fadd_rn(states[0], __fmul_rn(__fsub_rn(gradient, states[0]), factors.decay1));
    states[1] = __fadd_rn(states[1], __fmul_rn(__fsub_rn(square, states[1]), factors.decay2));
    const float root = __fadd_rn(__fsqrt_rn(states[1]), factors.epsilon);
    *weight = __fsub_rn(*weight, __fdiv_rn(__fmul_rn(states[0], factors.rate), root));
  }
}

__device__ __forceinline__ bool all_finite(const float4& v) {
  return is_finite(v.x) && is_finite(v.y) && is_finite(v.z) && is_finite(v.w);
}

// Updates kVec neighbouring elements; returns whether they are finite afterwards.
template <int kOptimizer>
__device__ __forceinline__ bool update_vector(const UpdatePlan& plan, int variable, int64_t index,
                                              const float* gradients, bool applied,
                                              const Factors& factors) {
  constexpr int kStates = states_of(kOptimizer);
  float4* const address = reinterpret_cast<float4*>(plan.variable[variable] + index);
  float4 weights = load_owned(address, true);
  if (!applied) return all_finite(weights);
  float4 states[kMostStates];
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    states[s] = load_owned(reinterpret_cast<float4*>(plan.state[s][variable] + index), true);
  }
  const float4 pieces = load_read_only(reinterpret_cast<const float4*>(gradients));
  float own[kMostStates];
  const auto update = [&](float& weight, float piece, float& first, float& second) {
    own[0] = first;
    own[1] = second;
    update_element<kOptimizer>(&weight, own, piece, factors);
    first = own[0];
    second = own[1];
  };
  update(weights.x, pieces.x, states[0].x, states[1].x);
  update(weights.y, pieces.y, states[0].y, states[1].y);
  update(weights.z, pieces.z, states[0].z, states[1].z);
  update(weights.w, pieces.w, states[0].w, states[1].w);
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    store_owned(reinterpret_cast<float4*>(plan.state[s][variable] + index), states[s]);
  }
  store_owned(address, weights);
  return all_finite(weights);
}

// The same for one element, whose gradient is at `gradient`.
template <int kOptimizer>
__device__ __forceinline__ bool update_scalar(const UpdatePlan& plan, int variable, int64_t index,
                                              const float* gradient, bool applied,
                                              const Factors& factors) {
  constexpr int kStates = states_of(kOptimizer);
  float* const address = plan.variable[variable] + index;
  float weight = load_owned(address, true), states[kMostStates];
  if (!applied) return is_finite(weight);
#pragma unroll
  for (int s = 0; s < kStates; ++s) states[s] = load_owned(plan.state[s][variable] + index, true);
  update_element<kOptimizer>(&weight, states, load_in_order(gradient), factors);
#pragma unroll
  for (int s = 0; s < kStates; ++s) store_owned(plan.state[s][variable] + index, states[s]);
  store_owned(address, weight);
  return is_finite(weight);
}

__device__ __forceinline__ bool aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % (kVec * sizeof(float)) == 0;
}

template <int kOptimizer>
__global__ void __launch_bounds__(kThreads)
    dense_update_kernel(const __grid_constant__ UpdatePlan plan) {
  constexpr int kStates = states_of(kOptimizer);
  // The step size, then whether a warp has found an element that is infinite or NaN.
  float* const shared_rate = reinterpret_cast<float*>(shared_memory());
  int* const shared_damaged = reinterpret_cast<int*>(shared_memory()) + 1;
  const bool applied = *plan.finite != 0;
  if (threadIdx.x == 0) {
    *shared_rate = kOptimizer == DLRM_DENSE_ADAM
                       ? adam_rate(plan.hyperparameters, *plan.learning_rate, *plan.iteration + 1)
                       : *plan.learning_rate;
  }
  __syncthreads();
  const Factors factors{
      *shared_rate, *plan.loss_scale, plan.hyperparameters[kOptimizer == DLRM_DENSE_ADAM ? 2 : 0],
      __fsub_rn(1.0f, plan.hyperparameters[0]), __fsub_rn(1.0f, plan.hyperparameters[1])};
  bool finite = true;
  int variable = 0, piece = 0;
  for (int unit = static_cast<int>(blockIdx.x); unit < plan.first_unit[plan.variables];
       unit += static_cast<int>(gridDim.x)) {
    while (unit >= plan.first_unit[variable + 1]) ++variable;
    const int64_t first = (unit - plan.first_unit[variable]) * kUnit;
    const int64_t left = plan.start[variable + 1] - plan.start[variable] - first;
    const int count = static_cast<int>(left < kUnit ? left : kUnit);
    const int64_t place = plan.start[variable] + first;
    while (place >= plan.piece_end[piece]) ++piece;
    const int64_t piece_start = piece == 0 ? 0 : plan.piece_end[piece - 1];
    const float* const gradients = plan.piece[piece] + (place - piece_start);
    bool wide = place + count <= plan.piece_end[piece] && aligned(gradients) &&
                aligned(plan.variable[variable]);
#pragma unroll
    for (int s = 0; s < kStates; ++s) wide = wide && aligned(plan.state[s][variable]);
    if (wide) {
      const int own = kVec * static_cast<int>(threadIdx.x);
      if (own + kVec <= count) {
        finite &= update_vector<kOptimizer>(plan, variable, first + own, gradients + own, applied,
                                            factors);
      } else {
        for (int k = own; k < count; ++k) {
          finite &=
              update_scalar<kOptimizer>(plan, variable, first + k, gradients + k, applied, factors);
        }
      }
    } else {
      int own = piece;
      for (int k = static_cast<int>(threadIdx.x); k < count; k += kThreads) {
        while (place + k >= plan.piece_end[own]) ++own;
        const float* const gradient =
            plan.piece[own] + (place + k - (own == 0 ? 0 : plan.piece_end[own - 1]));
        finite &= update_scalar<kOptimizer>(plan, variable, first + k, gradient, applied, factors);
      }
    }
  }
  const int sound = __all_sync(kFullWarp, finite);
  if (threadIdx.x % 32 == 0) shared_damaged[threadIdx.x / 32] = sound == 0;
  __syncthreads();
  if (threadIdx.x != 0) return;
  int damaged = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) damaged |= shared_damaged[warp];
  plan.damaged[blockIdx.x] = damaged;
  if (blockIdx.x == 0) *plan.blocks = static_cast<int>(gridDim.x);
}

// One block.
__global__ void __launch_bounds__(kThreads)
    finish_dense_update_kernel(const int* blocks, const int* damaged, int64_t* iteration,
                               const unsigned char* finite, unsigned char* weights_finite) {
  int* const shared_damaged = reinterpret_cast<int*>(shared_memory());
  const int thread = static_cast<int>(threadIdx.x);
  int found = 0;
  for (int block = thread; block < *blocks; block += kThreads) found |= damaged[block];
  const int sound = __all_sync(kFullWarp, found == 0);
  if (thread % 32 == 0) shared_damaged[thread / 32] = sound == 0;
  __syncthreads();
  if (thread != 0) return;
  for (int warp = 0; warp < kThreads / 32; ++warp) found |= shared_damaged[warp];
  *weights_finite = found == 0;
  if (*finite != 0) *iteration += 1;
}

// Sets all of the plan except the workspace.
cudaError_t make_plan(const DlrmDenseUpdate& update, UpdatePlan* plan) {
  if (update.optimizer < DLRM_DENSE_SGD || update.optimizer > DLRM_DENSE_ADAM ||
      update.variables < 1 || update.variables > DLRM_DENSE_MOST || update.pieces < 1 ||
      update.pieces > DLRM_DENSE_MOST) {
    return cudaErrorInvalidValue;
  }
  const int states = states_of(update.optimizer);
  *plan = {};
  int64_t units = 0;
  for (int i = 0; i < update.variables; ++i) {
    if (update.variable_size[i] < 0) return cudaErrorInvalidValue;
    units += (update.variable_size[i] + kUnit - 1) / kUnit;
    if (units > INT32_MAX / 2) return cudaErrorInvalidValue;
    plan->variable[i] = update.variable[i];
    for (int s = 0; s < states; ++s) plan->state[s][i] = update.states[i * states + s];
    plan->start[i + 1] = plan->start[i] + update.variable_size[i];
    plan->first_unit[i + 1] = static_cast<int>(units);
  }
  int64_t elements = 0;
  for (int p = 0; p < update.pieces; ++p) {
    if (update.piece_size[p] < 0) return cudaErrorInvalidValue;
    elements += update.piece_size[p];
    plan->piece[p] = update.piece[p];
    plan->piece_end[p] = elements;
  }
  if (elements < plan->start[update.variables]) return cudaErrorInvalidValue;
  plan->variables = update.variables;
  for (int h = 0; h < DLRM_DENSE_HYPERPARAMETERS; ++h) {
    plan->hyperparameters[h] = update.hyperparameters[h];
  }
  plan->iteration = update.iteration;
  plan->learning_rate = update.learning_rate;
  plan->loss_scale = update.loss_scale;
  plan->finite = update.finite;
  return cudaSuccess;
}

// There are at most as many blocks as units, and at least one, which counts them.
int64_t blocks_of(const UpdatePlan& plan) {
  const int units = plan.first_unit[plan.variables];
  return units > 0 ? units : 1;
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_dense_update_workspace_bytes(const DlrmDenseUpdate* update,
                                                         size_t* bytes) {
  dlrm::gpu::UpdatePlan plan;
  const cudaError_t status = dlrm::gpu::make_plan(*update, &plan);
  if (status != cudaSuccess) return status;
  *bytes = static_cast<size_t>(1 + dlrm::gpu::blocks_of(plan)) * sizeof(int);
  return cudaSuccess;
}

extern "C" cudaError_t dlrm_dense_update(const DlrmDenseUpdate* update, void* workspace,
                                         size_t workspace_bytes, cudaStream_t stream) {
  using namespace dlrm::gpu;
  UpdatePlan plan;
  cudaError_t status = make_plan(*update, &plan);
  if (status != cudaSuccess) return status;
  const int64_t blocks = blocks_of(plan);
  if (workspace_bytes < static_cast<size_t>(1 + blocks) * sizeof(int)) return cudaErrorInvalidValue;
  plan.blocks = static_cast<int*>(workspace);
  plan.damaged = plan.blocks + 1;
  const auto kernel = update->optimizer == DLRM_DENSE_SGD ? dense_update_kernel<DLRM_DENSE_SGD>
                      : update->optimizer == DLRM_DENSE_ADAGRAD
                          ? dense_update_kernel<DLRM_DENSE_ADAGRAD>
                          : dense_update_kernel<DLRM_DENSE_ADAM>;
  status = launch_cached(kernel, blocks, kThreads, (1 + kThreads / 32) * sizeof(int), stream, plan);
  if (status != cudaSuccess) return status;
  return launch_cached(finish_dense_update_kernel, 1, kThreads, kThreads / 32 * sizeof(int), stream,
                       plan.blocks, plan.damaged, update->iteration, update->finite,
                       update->weights_finite);
}
