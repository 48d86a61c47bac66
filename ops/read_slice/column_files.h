// Column files: opened once, read with pread; errors name file, offset, expected and found.
#ifndef OPS_READ_SLICE_COLUMN_FILES_H_
#define OPS_READ_SLICE_COLUMN_FILES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dlrm {

// A run of consecutive samples of one column in one file.
struct Segment {
  std::string path;
  int64_t offset;   // byte offset of its first sample's first value
  int64_t samples;  // how many samples it holds
  size_t file = 0;  // index of its file in a `ColumnFiles`
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

// The files of many segments, one for each path: columns may share a file, such as an archive.
class ColumnFiles {
 public:
  // Returns the index of the file at `path`; adds it if it is new.
  size_t Add(const std::string& path);
  // Opens all files that are not open. Not thread safe.
  ReadError Open();
  // Fails if an open file was removed or another file was renamed over it.
  ReadError StillThere() const;
  const ColumnFile& Of(const Segment& segment) const { return files_[segment.file]; }

 private:
  std::vector<ColumnFile> files_;
  std::unordered_map<std::string, size_t> indices_;  // by path
};

}  // namespace dlrm

#endif  // OPS_READ_SLICE_COLUMN_FILES_H_
