// Where the parts of a batch are in its package, and the copy into it. No TensorFlow, no CUDA.
#ifndef DLRM_OPS_UPLOAD_PACKAGE_LAYOUT_H_
#define DLRM_OPS_UPLOAD_PACKAGE_LAYOUT_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace dlrm {

// Host memory of one part.
struct HostPart {
  const char* data;
  int64_t bytes;
};

// Calls the function with ranges that together are [0, total), on several threads, and waits.
using ParallelFor =
    std::function<void(int64_t total, const std::function<void(int64_t begin, int64_t end)>&)>;

// Parts follow one another, each at a multiple of kAlignment bytes.
class PackageLayout {
 public:
  static constexpr int64_t kAlignment = 256;  // of cudaMalloc: suits every kernel

  PackageLayout() = default;
  explicit PackageLayout(const std::vector<int64_t>& part_bytes) {
    for (const int64_t bytes : part_bytes) {
      offsets_.push_back(bytes_);
      bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    // Never empty, so that every package has an address.
    bytes_ = std::max(bytes_, kAlignment);
  }

  int64_t offset(size_t part) const { return offsets_[part]; }
  int64_t bytes() const { return bytes_; }

  // Writes the whole package. The bytes between parts are zero.
  void Pack(const std::vector<HostPart>& parts, char* package, const ParallelFor& run) const {
    constexpr int64_t kChunk = 64 << 10;
    run((bytes_ + kChunk - 1) / kChunk, [&](int64_t begin, int64_t end) {
      PackRange(parts, package, begin * kChunk, std::min(end * kChunk, bytes_));
    });
  }

 private:
  // Writes bytes [begin, end) of the package.
  void PackRange(const std::vector<HostPart>& parts, char* package, int64_t begin,
                 int64_t end) const {
    for (size_t p = 0; p < parts.size(); ++p) {
      const int64_t next = p + 1 < parts.size() ? offsets_[p + 1] : bytes_;
      const int64_t limit = offsets_[p] + parts[p].bytes;
      const int64_t from = std::max(begin, offsets_[p]), to = std::min(end, next);
      if (from >= to) continue;
      const int64_t copied = std::max<int64_t>(std::min(to, limit) - from, 0);
      if (copied > 0) std::memcpy(package + from, parts[p].data + (from - offsets_[p]), copied);
      std::memset(package + from + copied, 0, to - from - copied);
    }
  }

  std::vector<int64_t> offsets_;
  int64_t bytes_ = 0;
};

}  // namespace dlrm

#endif  // DLRM_OPS_UPLOAD_PACKAGE_LAYOUT_H_
