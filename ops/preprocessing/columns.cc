// Converts records to columns and back, for the data tools (dataset/column_kernels.py).
#include <cstring>

#include "preprocessing/columns_by_eight.h"
#include "preprocessing/preprocessing.h"

namespace {

// Rows per tile: the records of a tile fit the first-level cache.
constexpr int64_t kTileRows = 128;

template <class F>
void ForTiles(int64_t rows, F work) {
  for (int64_t begin = 0; begin < rows; begin += kTileRows) {
    work(begin, rows - begin < kTileRows ? rows : begin + kTileRows);
  }
}

bool HasNoGaps(const DlrmIdBlock& block) {
  return block.source_stride == block.width * dlrm::SizeOf(block.source_type) &&
         block.target_stride == block.width * dlrm::SizeOf(block.target_type);
}

// Rows of fewer ids have a function for each number of them: a loop over few ids is slow.
constexpr int64_t kLongRow = 8;

// Copies `ids` adjacent ids.
template <class From, class To>
inline void CopyRun(const char* from, int64_t ids, char* to) {
  const From* const __restrict in = reinterpret_cast<const From*>(from);
  To* const __restrict out = reinterpret_cast<To*>(to);
  for (int64_t i = 0; i < ids; ++i) out[i] = static_cast<To>(in[i]);
}

// Copies rows of kIds ids; the compiler unrolls the loop over them.
template <class From, class To, int64_t kIds>
void CopyRowsOfIds(const char* __restrict from, int64_t from_stride, int64_t rows,
                   char* __restrict to, int64_t to_stride) {
  if (kIds == 1 && to_stride == sizeof(To)) {
    for (int64_t row = 0; row < rows; ++row) {
      CopyRun<From, To>(from + row * from_stride, 1, to + row * static_cast<int64_t>(sizeof(To)));
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    CopyRun<From, To>(from + row * from_stride, kIds, to + row * to_stride);
  }
}

template <class From, class To, int64_t kIds = kLongRow - 1>
void CopyShortRows(int64_t ids, const char* from, int64_t from_stride, int64_t rows, char* to,
                   int64_t to_stride) {
  if constexpr (kIds > 1) {
    if (ids < kIds) {
      return CopyShortRows<From, To, kIds - 1>(ids, from, from_stride, rows, to, to_stride);
    }
  }
  CopyRowsOfIds<From, To, kIds>(from, from_stride, rows, to, to_stride);
}

// Copies rows [begin, end).
template <class From, class To>
void CopyRows(const DlrmIdBlock& block, int64_t begin, int64_t end) {
  const int64_t from_stride = block.source_stride, to_stride = block.target_stride;
  const char* from = static_cast<const char*>(block.source) + begin * from_stride;
  char* to = static_cast<char*>(block.target) + begin * to_stride;
  const int64_t rows = end - begin, width = block.width;
  if (HasNoGaps(block)) {
    CopyRun<From, To>(from, rows * width, to);
    return;
  }
  if (width >= kLongRow) {
    for (int64_t row = 0; row < rows; ++row, from += from_stride, to += to_stride) {
      CopyRun<From, To>(from, width, to);
    }
    return;
  }
  CopyShortRows<From, To>(width, from, from_stride, rows, to, to_stride);
}

template <class From>
void CopyRowsOf(const DlrmIdBlock& block, int64_t begin, int64_t end) {
  switch (block.target_type) {
    case 'b':
      return CopyRows<From, int8_t>(block, begin, end);
    case 'h':
      return CopyRows<From, int16_t>(block, begin, end);
    default:
      return CopyRows<From, int32_t>(block, begin, end);
  }
}

void CopyBlock(const DlrmIdBlock& block, int64_t begin, int64_t end) {
  switch (block.source_type) {
    case 'B':
      return CopyRowsOf<uint8_t>(block, begin, end);
    case 'b':
      return CopyRowsOf<int8_t>(block, begin, end);
    case 'h':
      return CopyRowsOf<int16_t>(block, begin, end);
    default:
      return CopyRowsOf<int32_t>(block, begin, end);
  }
}

}  // namespace

void dlrm_split_records(const uint8_t* records, int64_t rows, int64_t stride, int64_t fields,
                        const int64_t* offsets, const int64_t* sizes, uint8_t* const* columns) {
  ForTiles(rows, [&](int64_t begin, int64_t end) {
    for (int64_t field = 0; field < fields; ++field) {
      const uint8_t* in = records + begin * stride + offsets[field];
      const int64_t size = sizes[field];
      uint8_t* out = columns[field] + begin * size;
      for (int64_t row = begin; row < end; ++row, in += stride, out += size) {
        std::memcpy(out, in, size);
      }
    }
  });
}

void dlrm_copy_ids(const DlrmIdBlock* blocks, int64_t count, int64_t rows) {
  const bool by_eight = dlrm::UseColumnsAvx2();
  ForTiles(rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count;) {
      int64_t last = i + 1, done = begin;
      if (HasNoGaps(blocks[i])) {
        // Its rows share no cache line with other columns: one run is faster than tiles.
        if (begin == 0) CopyBlock(blocks[i], 0, rows);
        done = end;
      } else if (by_eight && count - i >= 8) {
        if (dlrm::IsEightToWiden(blocks + i)) {
          done = dlrm::WidenEightAvx2(blocks + i, begin, end);
          last = i + 8;
        } else if (dlrm::IsEightToNarrow(blocks + i)) {
          done = dlrm::NarrowEightAvx2(blocks + i, begin, end);
          last = i + 8;
        }
      }
      for (; i < last; ++i) CopyBlock(blocks[i], done, end);
    }
  });
}

int64_t dlrm_look_up(const int32_t* counts, int64_t n, const uint16_t* table, uint32_t size,
                     uint16_t* found) {
  int64_t outside_count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t count = static_cast<uint32_t>(counts[i]);
    const bool outside = count >= size;
    outside_count += outside;
    found[i] = table[outside ? 0 : count];
  }
  return outside_count;
}

void dlrm_halves_to_floats(const uint16_t* halves, int64_t n, float* floats) {
  if (dlrm::UseColumnsAvx2()) return dlrm::HalvesToFloatsAvx2(halves, n, floats);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = halves[i] & 0x7FFF;
    // Subnormal halves are multiples of 2^-24. Computed without subnormal float32, which a thread
    // may be set to flush to 0.
    const float small = static_cast<float>(magnitude) * 0x1p-24f;
    uint32_t small_bits;
    std::memcpy(&small_bits, &small, sizeof small_bits);
    // Normal halves: changes the exponent's bias from 15 to 127.
    const uint32_t normal_bits = (magnitude << 13) + ((127 - 15) << 23);
    const uint32_t sign = static_cast<uint32_t>(halves[i] & 0x8000) << 16;
    const uint32_t bits = (magnitude < 0x0400 ? small_bits : normal_bits) | sign;
    std::memcpy(&floats[i], &bits, sizeof bits);
  }
}
