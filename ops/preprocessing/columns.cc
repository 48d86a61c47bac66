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

template <class Narrow>
void NarrowColumn(const int32_t* ids, int64_t tables, int64_t begin, int64_t end, void* column) {
  Narrow* const out = static_cast<Narrow*>(column);
  for (int64_t row = begin; row < end; ++row) out[row] = static_cast<Narrow>(ids[row * tables]);
}

template <class Narrow>
void WidenColumn(const void* column, int64_t tables, int64_t begin, int64_t end, int32_t* ids) {
  const Narrow* const in = static_cast<const Narrow*>(column);
  for (int64_t row = begin; row < end; ++row) ids[row * tables] = in[row];
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

void dlrm_narrow_ids(const int32_t* ids, int64_t rows, int64_t tables, const int64_t* widths,
                     void* const* columns) {
  ForTiles(rows, [&](int64_t begin, int64_t end) {
    for (int64_t table = 0; table < tables; ++table) {
      switch (widths[table]) {
        case 1:
          NarrowColumn<int8_t>(ids + table, tables, begin, end, columns[table]);
          break;
        case 2:
          NarrowColumn<int16_t>(ids + table, tables, begin, end, columns[table]);
          break;
        default:
          NarrowColumn<int32_t>(ids + table, tables, begin, end, columns[table]);
      }
    }
  });
}

void dlrm_widen_ids(const void* const* columns, const int64_t* widths, int64_t rows, int64_t tables,
                    int32_t* ids) {
  const int64_t eights = dlrm::UseColumnsAvx2() ? tables / 8 * 8 : 0;
  ForTiles(rows, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < eights; first += 8) {
      dlrm::WidenEightAvx2(columns, widths, begin, end, first, tables, ids);
    }
    for (int64_t table = eights; table < tables; ++table) {
      switch (widths[table]) {
        case 1:
          WidenColumn<int8_t>(columns[table], tables, begin, end, ids + table);
          break;
        case 2:
          WidenColumn<int16_t>(columns[table], tables, begin, end, ids + table);
          break;
        default:
          WidenColumn<int32_t>(columns[table], tables, begin, end, ids + table);
      }
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
