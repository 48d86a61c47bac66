// The last layer with the log loss: `hidden` is read once and its gradient written once.
//
// A warp takes up to four rows at a time, and each lane always the same columns, so that the
// layer's kernel and the sums of its gradient stay in registers. Rows are divided into slices that
// depend on the shape only; a block adds the sums of its warps in order and stores those of each
// slice, and a second kernel adds the slices. Of 65,536 rows of 256 float16 elements the sums are
// 3 % of the bytes, so the kernel should take the time of a copy of `hidden` and a launch.
#include "log_loss/log_loss_launchers.h"

#include "cuda_elements.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
// Of a slice: a multiple of the rows that a block takes at once.
constexpr int64_t kMinSliceRows = 32, kMostSlices = 1024;
// Columns of a block of the second kernel (a sector of memory), and slices that it adds at once.
constexpr int kColumns = 8, kParts = 64, kFinishThreads = kColumns * kParts;

struct LogLossPlan {
  int64_t batch, slice_rows, slices;
  int width, relu;
  const float *kernel, *bias, *label, *scale;
  float* sums;  // [slices, stride]: gradient of the kernel, loss, gradient of the bias

  __host__ __device__ int64_t stride() const {
    return (width + 1 + kColumns) / kColumns * kColumns;
  }
};

// kVec neighbouring elements.
template <typename T, int kVec>
struct Elements {
  T value[kVec];

  __device__ __forceinline__ void load(const T* address) {
    if constexpr (kVec == 1) {
      value[0] = load_in_order(address);
    } else {
      const float4 bits = load_read_only(reinterpret_cast<const float4*>(address));
      memcpy(static_cast<void*>(value), &bits, sizeof(bits));
    }
  }
  __device__ __forceinline__ void store(T* address) const {
    if constexpr (kVec == 1) {
      *address = value[0];
    } else {
      static_assert(sizeof(value) == sizeof(float4), "one store of 16 bytes");
      float4 bits;
      memcpy(&bits, static_cast<const void*>(value), sizeof(bits));
      *reinterpret_cast<float4*>(address) = bits;
    }
  }
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(kFullWarp, value, other);
  return value;
}

// The columns of lane l are kVec (l + 32 j) + v for j < kVectors, v < kVec.
template <typename T, int kVec, int kVectors>
__global__ void __launch_bounds__(kThreads)
    log_loss_kernel(const __grid_constant__ LogLossPlan plan, const T* __restrict__ hidden,
                    T* __restrict__ hidden_gradient) {
  constexpr int kElements = kVec * kVectors;
  constexpr int kRows = 32 / kElements;
  static_assert(kRows >= 1 && kMinSliceRows % (kWarps * kRows) == 0, "whole groups of rows");
  // Of this block: [kElements, 32 lanes], loss, gradient of the bias.
  float* const sums = reinterpret_cast<float*>(shared_memory());
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int width = plan.width;
  float weight[kElements];
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const int column = kVec * (lane + 32 * (e / kVec)) + e % kVec;
    weight[e] = column < width ? plan.kernel[column] : 0.0f;
  }
  const float bias = *plan.bias, factor = *plan.scale / static_cast<float>(plan.batch);
  for (int64_t slice = blockIdx.x; slice < plan.slices; slice += gridDim.x) {
    const int64_t first = slice * plan.slice_rows;
    const int64_t end = first + plan.slice_rows < plan.batch ? first + plan.slice_rows : plan.batch;
    float gradient[kElements], loss_sum = 0.0f, bias_sum = 0.0f;
#pragma unroll
    for (int e = 0; e < kElements; ++e) gradient[e] = 0.0f;
    for (int64_t row = first + warp * kRows; row < end; row += kWarps * kRows) {
      Elements<T, kVec> values[kRows][kVectors];
      const int64_t own = row + lane % kRows;
      const float label = load_in_order(plan.label + (own < end ? own : end - 1));
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        // Past the end the last row is read again: from the cache, without a branch.
        const T* const address = hidden + (row + r < end ? row + r : end - 1) * width;
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
          const int column = kVec * (lane + 32 * j);
          values[r][j].load(address + (column < width ? column : 0));
        }
      }
      // Each lane computes the loss of one of the rows.
      float x = 0.0f;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float sum = 0.0f;
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const bool active = kVec * (lane + 32 * (e / kVec)) < width;
          sum += active ? to_float(values[r][e / kVec].value[e % kVec]) * weight[e] : 0.0f;
        }
        sum = warp_sum(sum);
        if (lane % kRows == r) x = sum + bias;
      }
      const float power = expf(-fabsf(x));
      const float loss = fmaxf(x, 0.0f) - x * label + log1pf(power);
      const float probability = (x >= 0.0f ? 1.0f : power) / (1.0f + power);
      const float upstream = factor * (probability - label);
      if (lane < kRows && own < end) {
        loss_sum += loss;
        bias_sum += upstream;
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float of_row = __shfl_sync(kFullWarp, upstream, r);
        if (row + r >= end) continue;
        T* const address = hidden_gradient + (row + r) * width;
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
          const int column = kVec * (lane + 32 * j);
          if (column >= width) continue;
          Elements<T, kVec> result;
#pragma unroll
          for (int v = 0; v < kVec; ++v) {
            const float value = to_float(values[r][j].value[v]);
            gradient[kVec * j + v] += of_row * value;
            const bool passes = plan.relu == 0 || value > 0.0f;
            result.value[v] = from_float<T>(passes ? of_row * weight[kVec * j + v] : 0.0f);
          }
          result.store(address + column);
        }
      }
    }
    loss_sum = warp_sum(loss_sum);
    bias_sum = warp_sum(bias_sum);
    for (int turn = 0; turn < kWarps; ++turn) {
      if (warp == turn) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          float* const sum = sums + 32 * e + lane;
          *sum = turn == 0 ? gradient[e] : *sum + gradient[e];
        }
        if (lane < 2) {
          float* const sum = sums + 32 * kElements + lane;
          const float own = lane == 0 ? loss_sum : bias_sum;
          *sum = turn == 0 ? own : *sum + own;
        }
      }
      __syncthreads();
    }
    float* const stored = plan.sums + slice * plan.stride();
    for (int c = static_cast<int>(threadIdx.x); c < width; c += kThreads) {
      const int vector = c / kVec;
      stored[c] = sums[32 * (vector / 32 * kVec + c % kVec) + vector % 32];
    }
    if (threadIdx.x < 2) stored[width + threadIdx.x] = sums[32 * kElements + threadIdx.x];
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kFinishThreads)
    finish_log_loss_kernel(const __grid_constant__ LogLossPlan plan, float* __restrict__ loss,
                           float* __restrict__ kernel_gradient, float* __restrict__ bias_gradient) {
  float* const sums = reinterpret_cast<float*>(shared_memory());  // [kParts, kColumns]
  const int thread = static_cast<int>(threadIdx.x), part = thread / kColumns;
  const int64_t stride = plan.stride();
  for (int64_t first = int64_t{kColumns} * blockIdx.x; first < plan.width + 2;
       first += int64_t{kColumns} * gridDim.x) {
    const int column = static_cast<int>(first) + thread % kColumns;
    float sum = 0.0f;
    if (column < plan.width + 2) {
#pragma unroll 8
      for (int64_t slice = part; slice < plan.slices; slice += kParts) {
        sum += plan.sums[slice * stride + column];
      }
    }
    sums[thread] = sum;
    __syncthreads();
    for (int half = kParts / 2; half > 0; half /= 2) {
      if (part < half) sums[thread] += sums[thread + half * kColumns];
      __syncthreads();
    }
    if (part == 0) {
      const float total = sums[thread];
      if (column < plan.width) {
        kernel_gradient[column] = total;
      } else if (column == plan.width) {
        *loss = total / static_cast<float>(plan.batch);
      } else if (column == plan.width + 1) {
        *bias_gradient = total;
      }
    }
    __syncthreads();
  }
}

bool is_valid(const DlrmLogLoss& loss) {
  return loss.batch >= 1 && loss.width >= 1 && loss.width <= DLRM_LOG_LOSS_MOST_WIDTH &&
         loss.dtype >= DLRM_FLOAT32 && loss.dtype <= DLRM_BFLOAT16;
}

LogLossPlan plan_of(const DlrmLogLoss& loss, void* workspace) {
  const int64_t even = (loss.batch + kMostSlices - 1) / kMostSlices;
  const int64_t rows = (even + kMinSliceRows - 1) / kMinSliceRows * kMinSliceRows;
  return {loss.batch,
          rows,
          (loss.batch + rows - 1) / rows,
          static_cast<int>(loss.width),
          loss.relu,
          loss.kernel,
          loss.bias,
          loss.label,
          loss.scale,
          static_cast<float*>(workspace)};
}

size_t bytes_of(const LogLossPlan& plan) {
  return static_cast<size_t>(plan.slices * plan.stride()) * sizeof(float);
}

template <typename T, int kVec, int kVectors>
cudaError_t run(const DlrmLogLoss& loss, const LogLossPlan& plan, cudaStream_t stream) {
  return launch_cached(log_loss_kernel<T, kVec, kVectors>, plan.slices, kThreads,
                       (32 * kVec * kVectors + 2) * sizeof(float), stream, plan,
                       static_cast<const T*>(loss.hidden), static_cast<T*>(loss.hidden_gradient));
}

template <typename T>
cudaError_t run_with(const DlrmLogLoss& loss, const LogLossPlan& plan, cudaStream_t stream) {
  constexpr int kVec = 16 / static_cast<int>(sizeof(T));
  const auto aligned = [](const void* address) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0;
  };
  if (loss.width % kVec == 0 && aligned(loss.hidden) && aligned(loss.hidden_gradient)) {
    if (loss.width <= 256) return run<T, kVec, 8 / kVec>(loss, plan, stream);
    if (loss.width <= 512) return run<T, kVec, 16 / kVec>(loss, plan, stream);
    return run<T, kVec, 32 / kVec>(loss, plan, stream);
  }
  if (loss.width <= 256) return run<T, 1, 8>(loss, plan, stream);
  return run<T, 1, 32>(loss, plan, stream);
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_log_loss_workspace_bytes(const DlrmLogLoss* loss, size_t* bytes) {
  if (!dlrm::gpu::is_valid(*loss)) return cudaErrorInvalidValue;
  *bytes = dlrm::gpu::bytes_of(dlrm::gpu::plan_of(*loss, nullptr));
  return cudaSuccess;
}

extern "C" cudaError_t dlrm_log_loss(const DlrmLogLoss* loss, void* workspace,
                                     size_t workspace_bytes, cudaStream_t stream) {
  using namespace dlrm::gpu;
  if (!is_valid(*loss)) return cudaErrorInvalidValue;
  const LogLossPlan plan = plan_of(*loss, workspace);
  if (workspace_bytes < bytes_of(plan)) return cudaErrorInvalidValue;
  const cudaError_t status = with_element_type(
      loss->dtype, [&](auto element) { return run_with<decltype(element)>(*loss, plan, stream); });
  if (status != cudaSuccess) return status;
  return launch_cached(finish_log_loss_kernel, plan.stride() / kColumns, kFinishThreads,
                       kFinishThreads * sizeof(float), stream, plan, loss->loss,
                       loss->kernel_gradient, loss->bias_gradient);
}
