#include "read_slice/column_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace dlrm {
namespace {

std::string Where(const std::string& path, int64_t offset) {
  return path + ": at byte " + std::to_string(offset);
}

// Names the type of a file that is not a regular file.
const char* KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "a special file";
}

}  // namespace

ColumnFile::~ColumnFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

ColumnFile::ColumnFile(ColumnFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

ReadError ColumnFile::Open() {
  if (descriptor_ >= 0) return {};
  do {
    // O_NONBLOCK: opening a named pipe would wait for its other end.
    descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ >= 0) return CheckRegular();
  const int error = errno;
  const ReadError::Kind kind = error == ENOENT                     ? ReadError::kOpen
                               : error == EACCES || error == EPERM ? ReadError::kPermission
                                                                   : ReadError::kIo;
  return {kind, path_ + ": cannot be opened: " + std::strerror(error)};
}

ReadError ColumnFile::CheckRegular() {
  struct stat status;
  ReadError error;
  if (fstat(descriptor_, &status) != 0) {
    error = {ReadError::kIo, path_ + ": cannot be examined: " + std::strerror(errno)};
  } else if (!S_ISREG(status.st_mode)) {
    error = {ReadError::kIo,
             path_ + ": is " + KindOf(status.st_mode) + ": expected a regular file"};
  }
  if (error) close(std::exchange(descriptor_, -1));
  return error;
}

ReadError ColumnFile::StillThere() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0) {
    return {ReadError::kIo, path_ + ": cannot be examined: " + std::strerror(errno)};
  }
  if (status.st_nlink == 0) {
    return {ReadError::kReplaced, path_ + ": was removed or replaced while it was being read"};
  }
  return {};
}

ReadError ColumnFile::Read(int64_t offset, int64_t length, char* out) const {
  int64_t done = 0;
  while (done < length) {
    const ssize_t got = pread(descriptor_, out + done, length - done, offset + done);
    if (got < 0) {
      if (errno == EINTR) continue;
      return {ReadError::kIo,
              Where(path_, offset + done) + ": read error: " + std::strerror(errno)};
    }
    if (got == 0) {
      return {ReadError::kShort, Where(path_, offset) + ": truncated: expected " +
                                     std::to_string(length) + " bytes, found " +
                                     std::to_string(done)};
    }
    done += got;
  }
  return {};
}

size_t ColumnFiles::Add(const std::string& path) {
  const auto [entry, is_new] = indices_.emplace(path, files_.size());
  if (is_new) files_.emplace_back(path);
  return entry->second;
}

ReadError ColumnFiles::Open() {
  for (ColumnFile& file : files_) {
    if (ReadError error = file.Open()) return error;
  }
  return {};
}

ReadError ColumnFiles::StillThere() const {
  for (const ColumnFile& file : files_) {
    if (ReadError error = file.StillThere()) return error;
  }
  return {};
}

}  // namespace dlrm
