// Decodes random and damaged lines in buffers of exactly their size. Built with sanitizers (see
// CMakeLists.txt), an access one byte outside of any buffer ends the run. What is decoded is checked
// by the Python tests; here only that the rows and malformed lines add up.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "preprocessing/preprocessing.h"

namespace {

std::mt19937 generator(1);

int64_t Random(int64_t below) {
  return std::uniform_int_distribution<int64_t>(0, below - 1)(generator);
}

// n elements that end where the allocation ends.
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
    case 0: text[at] = kBytes[Random(sizeof kBytes)]; break;
    case 1: text.erase(at, 1 + Random(20)); break;
    case 2: text.insert(at, 1 + Random(20), kBytes[Random(sizeof kBytes)]); break;
    default: text.resize(at);
  }
}

// Returns how many good lines there were.
int64_t Check(const std::string& text) {
  const int64_t size = text.size();
  auto bytes = Exactly<uint8_t>(size);
  std::memcpy(bytes.get(), text.data(), size);
  int64_t expected = 0;
  for (char c : text) expected += c == '\n';
  const int64_t lines = dlrm_count_lines(bytes.get(), size);
  const int64_t room = std::min(lines, size / 41);
  auto label = Exactly<int32_t>(room);
  auto dense = Exactly<int32_t>(13 * room);
  auto dense_present = Exactly<uint8_t>(13 * room);
  auto values = Exactly<uint32_t>(26 * room);
  auto present = Exactly<uint8_t>(26 * room);
  auto bad = Exactly<int64_t>(3 * lines);
  int64_t bad_lines = -1;
  const int64_t rows =
      dlrm_decode_lines(bytes.get(), size, room, label.get(), dense.get(), dense_present.get(),
                        values.get(), present.get(), bad.get(), &bad_lines);
  bool good = lines == expected && rows >= 0 && rows <= room && rows + bad_lines == lines;
  for (int64_t i = 0; good && i < bad_lines; ++i) {
    const int64_t* const found = &bad[3 * i];
    good = found[1] <= found[2] && text[found[2]] == '\n' &&
           (found[1] == 0 || text[found[1] - 1] == '\n') && (i == 0 || found[0] > found[-3]);
  }
  if (!good) {
    std::printf("preprocessing_test: %ld lines, %ld rows, %ld malformed, expected %ld lines\n",
                static_cast<long>(lines), static_cast<long>(rows), static_cast<long>(bad_lines),
                static_cast<long>(expected));
    std::exit(1);
  }
  return rows;
}

}  // namespace

int main() {
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const int64_t lines = Random(round % 10 == 0 ? 200 : 4);
    for (int64_t i = 0; i < lines; ++i) text += Line();
    if (Check(text) != lines) {
      std::printf("preprocessing_test: a good line was rejected\n");
      return 1;
    }
    for (int i = 0; i < 8 && !text.empty(); ++i) {
      Damage(text);
      Check(text);
    }
  }
  std::printf("preprocessing: passed\n");
}
