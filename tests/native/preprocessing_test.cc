// Runs the kernels of preprocessing on random and damaged lines and on random columns, in buffers
// of exactly the required size. Built with sanitizers (see CMakeLists.txt), any access outside a
// buffer ends the run. The Python tests check decoded values; this test only checks that rows and
// malformed lines add up.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "preprocessing/preprocessing.h"

namespace {

std::mt19937 generator;

int64_t Random(int64_t below) {
  return std::uniform_int_distribution<int64_t>(0, below - 1)(generator);
}

// Allocates exactly n elements.
template <class T>
std::unique_ptr<T[]> Exactly(int64_t n) {
  return std::unique_ptr<T[]>(new T[n]);
}

std::string Line() {
  static const char kHex[] = "0123456789abcdefABCDEF";
  std::string line = Random(2) ? "1" : "0";
  for (int i = 0; i < 13; ++i) {
    line += '\t';
    if (Random(8) == 0) continue;
    line += std::to_string(Random(10) ? Random(5000) - 2 : Random(INT64_C(1) << 32) - (1LL << 31));
  }
  for (int i = 0; i < 26; ++i) {
    line += '\t';
    const int64_t digits = Random(8) == 0 ? Random(9) : 8;
    for (int64_t d = 0; d < digits; ++d) line += kHex[Random(22)];
  }
  return line + (Random(4) ? "\n" : "\r\n");
}

void Damage(std::string& text) {
  static const char kBytes[] = "\t\n\r-09afgAFG \x80\xff\0";
  const int64_t at = Random(text.size());
  switch (Random(4)) {
    case 0:
      text[at] = kBytes[Random(sizeof kBytes)];
      break;
    case 1:
      text.erase(at, 1 + Random(20));
      break;
    case 2:
      text.insert(at, 1 + Random(20), kBytes[Random(sizeof kBytes)]);
      break;
    default:
      text.resize(at);
  }
}

// Decodes a text and checks the counts. Returns the number of valid lines.
int64_t Check(const std::string& text) {
  const int64_t size = text.size();
  auto bytes = Exactly<uint8_t>(size);
  std::memcpy(bytes.get(), text.data(), size);
  int64_t expected = 0;
  for (char c : text) expected += c == '\n';
  const int64_t lines = dlrm_count_lines(bytes.get(), size);
  const int64_t capacity = std::min(lines, size / 41);
  auto label = Exactly<int32_t>(capacity);
  auto dense = Exactly<int32_t>(13 * capacity);
  auto dense_present = Exactly<uint8_t>(13 * capacity);
  auto values = Exactly<uint32_t>(26 * capacity);
  auto present = Exactly<uint8_t>(26 * capacity);
  auto bad = Exactly<int64_t>(3 * lines);
  int64_t bad_lines = -1;
  const int64_t rows =
      dlrm_decode_lines(bytes.get(), size, capacity, label.get(), dense.get(), dense_present.get(),
                        values.get(), present.get(), bad.get(), &bad_lines);
  bool good = lines == expected && rows >= 0 && rows <= capacity && rows + bad_lines == lines;
  for (int64_t i = 0; good && i < bad_lines; ++i) {
    const int64_t* const found = &bad[3 * i];
    good = found[1] <= found[2] && text[found[2]] == '\n' &&
           (found[1] == 0 || text[found[1] - 1] == '\n') && (i == 0 || found[0] > found[-3]);
  }
  if (!good) {
    std::printf("preprocessing_test: expected %ld lines, found %ld: %ld rows, %ld malformed\n",
                static_cast<long>(expected), static_cast<long>(lines), static_cast<long>(rows),
                static_cast<long>(bad_lines));
    std::exit(1);
  }
  return rows;
}

// A column of n values. Bit first_bit + i of the validity tells whether value i is present.
struct Column {
  explicit Column(int64_t n)
      : n(n),
        first_bit(Random(20)),
        values(Exactly<uint32_t>(n)),
        validity(Exactly<uint8_t>((first_bit + n + 7) / 8)) {
    for (int64_t i = 0; i < n; ++i) values[i] = Random(4) ? Random(50) : Random(INT64_C(1) << 32);
    for (int64_t i = 0; i < (first_bit + n + 7) / 8; ++i) validity[i] = Random(256);
  }
  bool Present(int64_t i) const {
    const int64_t bit = first_bit + i;
    return validity[bit / 8] >> (bit % 8) & 1;
  }
  int64_t n, first_bit;
  std::unique_ptr<uint32_t[]> values;
  std::unique_ptr<uint8_t[]> validity;
};

bool Counts(const Column& column, uint32_t max_rows) {
  auto counters = Exactly<int64_t>(max_rows);
  std::fill_n(counters.get(), max_rows, 0);
  dlrm_count_values(column.values.get(), column.validity.get(), column.first_bit, column.n,
                    max_rows, counters.get());
  for (int64_t i = 0; i < column.n; ++i) {
    --counters[column.Present(i) ? column.values[i] % max_rows : 0];
  }
  return std::all_of(counters.get(), counters.get() + max_rows, [](int64_t c) { return c == 0; });
}

// The table grows whenever half of it is in use.
bool CountsHashed(const Column& column) {
  int64_t slots = 2, entries = 0, done = 0;
  auto table = Exactly<uint64_t>(slots);
  std::fill_n(table.get(), slots, 0);
  while (true) {
    const int64_t bit = column.first_bit + done;
    done += dlrm_count_hashed(column.values.get() + done, column.validity.get(), bit,
                              column.n - done, table.get(), slots, slots / 2, &entries);
    if (done == column.n) break;
    auto larger = Exactly<uint64_t>(2 * slots + 1);
    std::fill_n(larger.get(), 2 * slots + 1, 0);
    dlrm_rehash(table.get(), slots, larger.get(), 2 * slots + 1);
    table = std::move(larger);
    slots = 2 * slots + 1;
  }
  std::unordered_map<uint32_t, uint32_t> expected, found;
  for (int64_t i = 0; i < column.n; ++i) {
    if (column.Present(i)) ++expected[column.values[i]];
  }
  for (int64_t i = 0; i < slots; ++i) {
    if (table[i] != 0) found[table[i] >> 32] = static_cast<uint32_t>(table[i]);
  }
  return found == expected && entries == static_cast<int64_t>(expected.size());
}

// The table has the values 0, 3, 6 ... 48, with the ids 5, 6, 7 ...
bool Finds(const Column& column, uint32_t max_rows) {
  constexpr int64_t kEntries = 17, kSlots = 29, kFirstId = 5;
  // Even the longest chain of full slots ends before the last slot.
  auto table = Exactly<uint64_t>(kSlots + kEntries + 1);
  std::fill_n(table.get(), kSlots + kEntries + 1, 0);
  for (uint64_t entry = 0; entry < kEntries; ++entry) {
    const uint32_t hash = static_cast<uint32_t>(3 * entry) * 2654435761u;
    uint64_t slot = static_cast<uint64_t>(hash) * kSlots >> 32;
    while (table[slot] != 0) ++slot;
    table[slot] = 3 * entry << 32 | (kFirstId + entry + 1);
  }
  auto ids = Exactly<int32_t>(column.n);
  const int64_t without =
      dlrm_find_ids(column.values.get(), column.validity.get(), column.first_bit, column.n,
                    max_rows, table.get(), kSlots, ids.get());
  int64_t expected_without = 0;
  bool same = true;
  for (int64_t i = 0; i < column.n; ++i) {
    uint32_t value = column.Present(i) ? column.values[i] : 0;
    if (max_rows != 0) value %= max_rows;
    const bool found =
        value % 3 == 0 && value / 3 < kEntries && (max_rows != 0 || column.Present(i));
    expected_without += !found;
    same = same && ids[i] == (found ? static_cast<int32_t>(value / 3 + kFirstId) : 0);
  }
  return same && without == expected_without;
}

bool Transposes(int64_t rows) {
  auto fields = Exactly<int32_t>(40 * rows);
  auto records = Exactly<int32_t>(40 * rows);
  for (int64_t i = 0; i < 40 * rows; ++i) fields[i] = i;
  dlrm_to_records(fields.get(), rows, records.get());
  for (int64_t i = 0; i < 40 * rows; ++i) {
    if (records[i] != i % 40 * rows + i / 40) return false;
  }
  return true;
}

// Copies records of ids to columns of every type and width and back, and to fields of records.
bool Columns(int64_t rows) {
  constexpr int64_t kColumns = 13, kIds = 33;
  const int64_t sizes[] = {1, 2, 4, 1, 2, 4, 1, 2, 2, 1, 4, 2, 1};
  const int64_t widths[] = {1, 1, 1, 1, 1, 1, 1, 1, 3, 7, 9, 5, 1};
  const auto type_of = [](int64_t size) { return size == 1 ? 'b' : size == 2 ? 'h' : 'i'; };
  auto ids = Exactly<int32_t>(rows * kIds);
  for (int64_t i = 0; i < rows * kIds; ++i) ids[i] = Random(256) - 128;
  auto again = Exactly<int32_t>(rows * kIds);
  std::unique_ptr<uint8_t[]> columns[kColumns];
  DlrmIdBlock split[kColumns], joined[kColumns];
  int64_t first = 0;
  for (int64_t i = 0; i < kColumns; first += widths[i++]) {
    const int64_t bytes = widths[i] * sizes[i];
    columns[i] = Exactly<uint8_t>(rows * bytes);
    split[i] = {ids.get() + first, columns[i].get(), 4 * kIds, bytes, widths[i], 'i',
                type_of(sizes[i])};
    joined[i] = {columns[i].get(), again.get() + first, bytes, 4 * kIds,
                 widths[i],        type_of(sizes[i]),   'i'};
  }
  dlrm_copy_ids(split, kColumns, rows);
  dlrm_copy_ids(joined, kColumns, rows);
  if (!std::equal(ids.get(), ids.get() + rows * kIds, again.get())) return false;

  constexpr int64_t kStride = 13;  // The last field ends where the record does.
  const int64_t offsets[] = {5, 9, 0}, field_bytes[] = {2, 4, 1};
  auto records = Exactly<uint8_t>(rows * kStride);
  for (int64_t i = 0; i < rows * kStride; ++i) records[i] = Random(256);
  auto narrow = Exactly<uint8_t>(rows * 2);
  auto plain = Exactly<uint8_t>(rows * 4);
  auto least = Exactly<uint8_t>(rows);
  uint8_t* const fields[] = {narrow.get(), plain.get(), least.get()};
  dlrm_split_records(records.get(), rows, kStride, 3, offsets, field_bytes, fields);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < 3; ++i) {
      const uint8_t* const found = fields[i] + row * field_bytes[i];
      if (!std::equal(found, found + field_bytes[i], &records[row * kStride + offsets[i]])) {
        return false;
      }
    }
  }
  return true;
}

bool LooksUp(int64_t n) {
  const int64_t size = 1 + Random(100);
  auto table = Exactly<uint16_t>(size);
  for (int64_t i = 0; i < size; ++i) table[i] = 3 * i;
  auto counts = Exactly<int32_t>(n);
  auto found = Exactly<uint16_t>(n);
  int64_t outside = 0;
  for (int64_t i = 0; i < n; ++i) {
    counts[i] = Random(8) ? Random(size) : Random(INT64_C(1) << 32) - (INT64_C(1) << 31);
    outside += counts[i] < 0 || counts[i] >= size;
  }
  bool same = dlrm_look_up(counts.get(), n, table.get(), size, found.get()) == outside;
  for (int64_t i = 0; i < n; ++i) {
    same = same && (counts[i] < 0 || counts[i] >= size || found[i] == 3 * counts[i]);
  }
  auto floats = Exactly<float>(n);
  for (int64_t i = 0; i < n; ++i) found[i] = 0x3C00 + 0x400 * (i % 8);  // 1, 2, 4 ... 128
  dlrm_halves_to_floats(found.get(), n, floats.get());
  for (int64_t i = 0; i < n; ++i) same = same && floats[i] == 1 << i % 8;
  return same;
}

}  // namespace

// Takes the seed as an argument; without one, draws it.
int main(int argc, char** argv) {
  const unsigned long seed = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : std::random_device()();
  generator.seed(seed);
  std::printf("preprocessing: seed %lu\n", seed);
  for (int round = 0; round < 2000; ++round) {
    const Column column(Random(round % 10 == 0 ? 1000 : 300));
    const uint32_t max_rows = 1 + Random(100);
    if (!Counts(column, max_rows) || !Finds(column, max_rows) || !Finds(column, 0) ||
        !Transposes(column.n) || !CountsHashed(column) || !Columns(column.n) ||
        !LooksUp(column.n)) {
      std::printf("preprocessing_test: wrong result for a column of %ld values\n",
                  static_cast<long>(column.n));
      return 1;
    }
  }

  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const int64_t lines = Random(round % 10 == 0 ? 200 : 4);
    for (int64_t i = 0; i < lines; ++i) text += Line();
    if (Check(text) != lines) {
      std::printf("preprocessing_test: a valid line was rejected\n");
      return 1;
    }
    for (int i = 0; i < 8 && !text.empty(); ++i) {
      Damage(text);
      Check(text);
    }
  }
  std::printf("preprocessing: passed\n");
}
