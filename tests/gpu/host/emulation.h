// Runs CUDA kernels on the CPU, one thread at a time, to test their logic without a GPU: each CUDA
// thread is a fiber; barriers and warp-wide operations are meetings of fibers. This tests index
// arithmetic and control flow, not timing or memory ordering.
//
// Blocks, and the warps and lanes of a block, take turns in a random order in which a warp can be
// far ahead of the others, up to the next barrier: a missing barrier is likely to change a result.
#ifndef DLRM_TESTS_GPU_HOST_EMULATION_H_
#define DLRM_TESTS_GPU_HOST_EMULATION_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include <vector_types.h>

namespace dlrm_host {

struct ThreadPlace {
  uint3 thread, block;
  dim3 block_size, grid_size;
};

// The place of the running fiber: threadIdx, blockIdx, blockDim and gridDim.
extern ThreadPlace place;

// Runs `body` once per thread of each block, with `shared_bytes` of block memory, which starts as
// 0xff bytes (NaN in every element type). Recorded for dlrm_newest_launch. Host threads may call it
// at the same time: one grid runs after the other.
void run_grid(unsigned blocks, unsigned threads, size_t shared_bytes,
              const std::function<void()>& body);

// After the same seed the order is the same.
void seed_schedule(uint64_t seed);

unsigned char* block_memory();

// Waits for every running thread of the block.
void meet_block();

// Waits for every lane of the warp; deposits this lane's bytes (at most 64) and returns the 32
// deposits, in lane order, 64 bytes apart. Aborts with a message if a lane never arrives.
const unsigned char* meet_warp(const void* deposit, size_t bytes);

// Records that the running thread accesses elements of device memory. Aborts with a message if
// another warp has accessed one of them in this launch and one of the two accesses is not atomic.
void access_elements(const float* address, int count, bool atomic);

// Asynchronous copies of the running thread: executed when waited for, not before.
void copy_later(void* target, const void* source, size_t bytes);
void commit_copies();
void wait_copies(int pending);

}  // namespace dlrm_host

#endif  // DLRM_TESTS_GPU_HOST_EMULATION_H_
