// Decodes Criteo TSV lines into columns, in one pass over the text.
#include <cstdlib>
#include <cstring>

#include "preprocessing/decode_fields.h"
#include "preprocessing/preprocessing.h"

namespace dlrm {
namespace {

constexpr int kDense = 13;
constexpr int kCategorical = 26;
// Rows collected before they are copied to the columns. A tile fits the first-level cache, which 79
// arrays written one row at a time would not.
constexpr int kTileRows = 64;

struct Columns {
  int64_t stride;
  int32_t* label;
  int32_t* dense;
  uint8_t* dense_present;
  uint32_t* values;
  uint8_t* present;
};

struct alignas(64) Tile {
  int32_t label[kTileRows];
  int32_t dense[kDense][kTileRows];
  uint32_t values[kCategorical][kTileRows];
  uint8_t dense_present[kDense][kTileRows];
  uint8_t present[kCategorical][kTileRows];
};

// Decodes the line at p into a row of the tile; returns false for a malformed line.
DLRM_INLINE bool DecodeLine(const uint8_t*& p, Tile& tile, int row) {
  if ((p[0] != '0' && p[0] != '1') || p[1] != '\t') return false;
  tile.label[row] = p[0] - '0';
  p += 2;
  for (int i = 0; i < kDense; ++i) {
    if (!DecodeInteger(p, &tile.dense[i][row], &tile.dense_present[i][row])) return false;
  }
  for (int i = 0; i < kCategorical - 1; ++i) {
    if (!DecodeHex<false>(p, &tile.values[i][row], &tile.present[i][row])) return false;
  }
  constexpr int i = kCategorical - 1;
  return DecodeHex<true>(p, &tile.values[i][row], &tile.present[i][row]);
}

class LineDecoder {
 public:
  LineDecoder(const Columns& columns, int64_t* bad) : columns_(columns), bad_(bad) {}

  // Decodes lines[0, size), whose last byte is LF, and after which kSlack bytes are readable.
  // `origin` is their position in the text.
  void Decode(const uint8_t* lines, int64_t size, int64_t origin) {
    const uint8_t* const end = lines + size;
    for (const uint8_t* line = lines; line < end; ++line_) {
      const uint8_t* p = line;
      if (__builtin_expect(DecodeLine(p, tile_, in_tile_), 1)) {
        line = p;
        if (++in_tile_ == kTileRows) Flush();
        continue;
      }
      p = static_cast<const uint8_t*>(std::memchr(line, '\n', end - line));
      int64_t* found = bad_ + 3 * bad_lines_++;
      found[0] = line_;
      found[1] = origin + (line - lines);
      found[2] = origin + (p - lines);
      line = p + 1;
    }
  }

  void Flush() {
    const Columns& to = columns_;
    std::memcpy(to.label + rows_, tile_.label, in_tile_ * sizeof(int32_t));
    for (int i = 0; i < kDense; ++i) {
      const int64_t at = i * to.stride + rows_;
      std::memcpy(to.dense + at, tile_.dense[i], in_tile_ * sizeof(int32_t));
      std::memcpy(to.dense_present + at, tile_.dense_present[i], in_tile_);
    }
    for (int i = 0; i < kCategorical; ++i) {
      const int64_t at = i * to.stride + rows_;
      std::memcpy(to.values + at, tile_.values[i], in_tile_ * sizeof(uint32_t));
      std::memcpy(to.present + at, tile_.present[i], in_tile_);
    }
    rows_ += in_tile_;
    in_tile_ = 0;
  }

  int64_t rows() const { return rows_; }
  int64_t bad_lines() const { return bad_lines_; }

 private:
  const Columns columns_;
  int64_t* const bad_;
  int64_t rows_ = 0, line_ = 0, bad_lines_ = 0;
  int in_tile_ = 0;
  Tile tile_;
};

// Returns the position after the last LF of text[0, size); 0 if there is none.
int64_t AfterLastLine(const uint8_t* text, int64_t size) {
  while (size > 0 && text[size - 1] != '\n') --size;
  return size;
}

}  // namespace
}  // namespace dlrm

int32_t dlrm_preprocessing_version() { return 5; }

int64_t dlrm_count_lines(const uint8_t* text, int64_t size) {
  int64_t lines = 0;
  for (int64_t i = 0; i < size;) {
    // Sums of up to 255 bytes fit a byte; the compiler vectorises them.
    const int64_t end = size - i > 255 ? i + 255 : size;
    uint8_t found = 0;
    for (; i < end; ++i) found += text[i] == '\n';
    lines += found;
  }
  return lines;
}

int64_t dlrm_decode_lines(const uint8_t* text, int64_t size, int64_t stride, int32_t* label,
                          int32_t* dense, uint8_t* dense_present, uint32_t* values,
                          uint8_t* present, int64_t* bad, int64_t* bad_lines) {
  using dlrm::kSlack;
  dlrm::LineDecoder decoder({stride, label, dense, dense_present, values, present}, bad);
  const int64_t complete = dlrm::AfterLastLine(text, size);
  // Lines near the end of the text are decoded in a padded copy.
  const int64_t direct = size >= kSlack ? dlrm::AfterLastLine(text, size - kSlack) : 0;
  decoder.Decode(text, direct, 0);
  if (direct < complete) {
    const int64_t rest = complete - direct;
    auto* copy = static_cast<uint8_t*>(std::calloc(rest + kSlack, 1));
    if (copy == nullptr) return -1;
    std::memcpy(copy, text + direct, rest);
    decoder.Decode(copy, rest, direct);
    std::free(copy);
  }
  decoder.Flush();
  *bad_lines = decoder.bad_lines();
  return decoder.rows();
}
