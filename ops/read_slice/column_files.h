// Column files: opened once, read with pread; errors name file, offset, expected and found.
#ifndef OPS_READ_SLICE_COLUMN_FILES_H_
#define OPS_READ_SLICE_COLUMN_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dlrm {

// A run of consecutive samples of one column in one file.
struct Segment {
  std::string path;
  int64_t offset;   // byte offset of its first sample's first value
  int64_t samples;  // how many samples it holds
};

// `kind` selects the status code; `message` names file, offset, expected and found.
struct ReadError {
  enum Kind { kNone, kOpen, kPermission, kIo, kShort, kReplaced, kValue };
  Kind kind = kNone;
  std::string message;
  explicit operator bool() const { return kind != kNone; }
};

// A file descriptor opened on first use and closed with its owner.
class ColumnFile {
 public:
  explicit ColumnFile(std::string path) : path_(std::move(path)) {}
  ~ColumnFile();
  ColumnFile(ColumnFile&& other) noexcept;
  ColumnFile(const ColumnFile&) = delete;
  ColumnFile& operator=(const ColumnFile&) = delete;

  // Opens the file unless it is open. Fails if it is not a regular file. Not thread safe.
  ReadError Open();
  // Fails if the open file was removed or another file was renamed over it.
  ReadError StillThere() const;
  // Reads exactly `length` bytes at `offset`. Thread safe.
  ReadError Read(int64_t offset, int64_t length, char* out) const;
  const std::string& path() const { return path_; }

 private:
  // Closes the file and fails unless it is a regular file: devices and pipes may block or never
  // end.
  ReadError CheckRegular();

  std::string path_;
  int descriptor_ = -1;
};

}  // namespace dlrm

#endif  // OPS_READ_SLICE_COLUMN_FILES_H_
