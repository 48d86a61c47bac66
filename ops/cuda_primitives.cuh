// All instructions and runtime calls that the kernels use beyond plain C++: asynchronous copies,
// matrix fragments, vector reductions, launches. Kernels call nothing else, so tests/gpu/host can
// replace this file by a CPU emulation and run the same kernel sources.
#ifndef DLRM_OPS_CUDA_PRIMITIVES_CUH_
#define DLRM_OPS_CUDA_PRIMITIVES_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace dlrm::gpu {

constexpr unsigned kFullWarp = 0xffffffffu;

// The block's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char dlrm_block_memory[];
  return dlrm_block_memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes from device to shared memory, bypassing registers and the L1 cache.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}

// The same for 8 or 4 bytes, through the L1 cache.
template <int kBytes>
__device__ __forceinline__ void copy_async_small(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8, "cp.async copies 4, 8 or 16 bytes");
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n" ::"r"(shared_address(shared)),
               "l"(global), "n"(kBytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until at most kPending of this thread's newest groups are incomplete.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Loads four 8x8 matrices of 16-bit elements (or 8x4 of 32-bit ones); lanes 8q..8q+7 pass the rows
// of matrix q, 16 bytes each.
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

// acc[16, 8] += a[16, 16] b[16, 8]; the last argument only selects the element type.
__device__ __forceinline__ void matrix_multiply_add(float (&acc)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1, __half) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void matrix_multiply_add(float (&acc)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1, __nv_bfloat16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// acc[16, 8] += a[16, 8] b[8, 8] on operands rounded to TF32.
__device__ __forceinline__ void matrix_multiply_add(float (&acc)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1, float) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The float rounded to TF32 (10 stored mantissa bits, nearest, ties away), low bits zero.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
  return bits & 0xffffe000u;
}

// Adds to device memory without reading back; one instruction for 16 bytes on sm_90.
__device__ __forceinline__ void reduce_add(float* address, float4 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(address), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
#else
  atomicAdd(address, value.x);
  atomicAdd(address + 1, value.y);
  atomicAdd(address + 2, value.z);
  atomicAdd(address + 3, value.w);
#endif
}

__device__ __forceinline__ void reduce_add(float* address, float value) {
  atomicAdd(address, value);
}

// Sets bits of a word and returns the word's earlier value, as one step.
__device__ __forceinline__ uint32_t set_bits(uint32_t* word, uint32_t bits) {
  return atomicOr(word, bits);
}

// Returns the counter's value and adds 1 to it, as one step.
__device__ __forceinline__ uint32_t take_number(uint32_t* counter) {
  return atomicAdd(counter, 1u);
}

// Plain accesses to elements that no other warp of the launch accesses (which the emulation
// checks). Loads are volatile and have a condition instead of a branch around them, so that several
// are in flight; with `active` false they return zeros.
__device__ __forceinline__ float4 load_owned(const float4* address, bool active) {
  float4 v;
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %5, 0;\n"
               "mov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\n"
               "mov.f32 %2, 0f00000000;\nmov.f32 %3, 0f00000000;\n"
               "@p ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n}\n"
               : "=&f"(v.x), "=&f"(v.y), "=&f"(v.z), "=&f"(v.w)
               : "l"(address), "r"(static_cast<int>(active))
               : "memory");
  return v;
}
__device__ __forceinline__ float load_owned(const float* address, bool active) {
  float v;
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\nmov.f32 %0, 0f00000000;\n"
               "@p ld.global.f32 %0, [%1];\n}\n"
               : "=&f"(v)
               : "l"(address), "r"(static_cast<int>(active))
               : "memory");
  return v;
}
template <typename T>
__device__ __forceinline__ void store_owned(T* address, T value) {
  *address = value;
}

// Loads of data that no kernel writes meanwhile, and evict-first stores (for results far larger
// than the L2 cache). Both are volatile, so that the compiler keeps a kernel's order: several loads
// before the first store.
__device__ __forceinline__ float4 load_read_only(const float4* address) {
  float4 v;
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];\n"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(address));
  return v;
}
__device__ __forceinline__ uint2 load_read_only(const uint2* address) {
  uint2 v;
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];\n" : "=r"(v.x), "=r"(v.y) : "l"(address));
  return v;
}
template <typename T>
__device__ __forceinline__ T load_read_only(const T* address) {
  return __ldg(address);
}
// With `active` false nothing is loaded and the result is 0, without a branch.
__device__ __forceinline__ float4 load_read_only(const float4* address, bool active) {
  float4 v;
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %5, 0;\n"
               "mov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\n"
               "mov.f32 %2, 0f00000000;\nmov.f32 %3, 0f00000000;\n"
               "@p ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];\n}\n"
               : "=&f"(v.x), "=&f"(v.y), "=&f"(v.z), "=&f"(v.w)
               : "l"(address), "r"(static_cast<int>(active)));
  return v;
}
__device__ __forceinline__ float load_read_only(const float* address, bool active) {
  float v;
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\nmov.f32 %0, 0f00000000;\n"
               "@p ld.global.nc.f32 %0, [%1];\n}\n"
               : "=&f"(v)
               : "l"(address), "r"(static_cast<int>(active)));
  return v;
}
// Like the volatile ones, for single elements.
__device__ __forceinline__ float load_in_order(const float* address) {
  float v;
  asm volatile("ld.global.nc.f32 %0, [%1];\n" : "=f"(v) : "l"(address));
  return v;
}
__device__ __forceinline__ int32_t load_in_order(const int32_t* address) {
  int32_t v;
  asm volatile("ld.global.nc.s32 %0, [%1];\n" : "=r"(v) : "l"(address));
  return v;
}
__device__ __forceinline__ int64_t load_in_order(const int64_t* address) {
  long long v;
  asm volatile("ld.global.nc.s64 %0, [%1];\n" : "=l"(v) : "l"(address));
  return v;
}
template <typename Half>
__device__ __forceinline__ Half load_in_order(const Half* address) {
  static_assert(sizeof(Half) == 2, "float, __half or __nv_bfloat16");
  unsigned short bits;
  asm volatile("ld.global.nc.u16 %0, [%1];\n" : "=h"(bits) : "l"(address));
  Half v;
  memcpy(static_cast<void*>(&v), &bits, sizeof(v));
  return v;
}
__device__ __forceinline__ void store_streaming(float4* address, float4 v) {
  asm volatile("st.global.cs.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(address), "f"(v.x), "f"(v.y),
               "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ __forceinline__ void store_streaming(uint2* address, uint2 v) {
  asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};\n" ::"l"(address), "r"(v.x), "r"(v.y)
               : "memory");
}

// Publishes one thread's record in host-mapped memory: the first thread to claim `state` (0 -> 1)
// runs `fill`, then sets `state` to 2.
template <typename Fill>
__device__ __forceinline__ void publish_once(int32_t* state, Fill fill) {
  if (atomicCAS(state, 0, 1) == 0) {
    fill();
    __threadfence_system();
    *reinterpret_cast<volatile int32_t*>(state) = 2;
  }
}

// Sets each byte of device memory to a value, in the order of the stream.
inline cudaError_t fill_memory(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return cudaMemsetAsync(memory, value, bytes, stream);
}
inline cudaError_t clear_memory(void* memory, size_t bytes, cudaStream_t stream) {
  return fill_memory(memory, 0, bytes, stream);
}

inline cudaError_t current_device(int* device) { return cudaGetDevice(device); }

// Maximum dynamic shared memory of a block on the current device.
inline cudaError_t shared_memory_limit(size_t* bytes) {
  int device = 0, limit = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  *bytes = static_cast<size_t>(limit);
  return status;
}

#ifdef DLRM_RECORD_LAUNCHES
// For tests/gpu (dlrm_newest_launch): records blocks, threads per block, resident blocks per
// multiprocessor and dynamic shared memory per block.
void record_launch(const void* kernel, int64_t blocks, int threads, int resident,
                   size_t shared_bytes);
#endif

// Launches with a share of a multiprocessor's memory for blocks, of which the rest is L1 cache.
template <typename... Parameters>
cudaError_t launch_with(cudaSharedCarveout share, void (*kernel)(Parameters...),
                        int64_t blocks_of_work, int threads, size_t shared_bytes,
                        cudaStream_t stream, const std::common_type_t<Parameters>&... arguments) {
  if (blocks_of_work <= 0) return cudaSuccess;
  int device = 0, processors = 0, resident = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  if (shared_bytes > 48 * 1024) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return status;
  }
  if (shared_bytes > 0) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, share);
    if (status != cudaSuccess) return status;
  }
  status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared_bytes);
  if (status != cudaSuccess) return status;
  if (resident < 1) return cudaErrorInvalidConfiguration;
  const int64_t most = static_cast<int64_t>(processors) * resident;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks_of_work < most ? blocks_of_work : most));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
#ifdef DLRM_RECORD_LAUNCHES
  record_launch(reinterpret_cast<const void*>(kernel), config.gridDim.x, threads, resident,
                shared_bytes);
#endif
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Launches a grid-stride kernel with blocks_of_work blocks, but at most as many as fit the device
// at once.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks_of_work, int threads,
                   size_t shared_bytes, cudaStream_t stream,
                   const std::common_type_t<Parameters>&... arguments) {
  return launch_with(cudaSharedmemCarveoutMaxShared, kernel, blocks_of_work, threads, shared_bytes,
                     stream, arguments...);
}

// The same for a kernel that uses little shared memory and loads through the L1 cache, whose size
// limits the loads in flight.
template <typename... Parameters>
cudaError_t launch_cached(void (*kernel)(Parameters...), int64_t blocks_of_work, int threads,
                          size_t shared_bytes, cudaStream_t stream,
                          const std::common_type_t<Parameters>&... arguments) {
  return launch_with(cudaSharedmemCarveoutDefault, kernel, blocks_of_work, threads, shared_bytes,
                     stream, arguments...);
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_CUDA_PRIMITIVES_CUH_
