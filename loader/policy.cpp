#include "loader/policy.hpp"

#include <linux/io_uring.h>

#include "loader/linux_abi.hpp"
#include "loader/options.hpp"
#include "loader/text.hpp"

namespace exclave::loader {

bool name_matches(std::string_view entry, std::string_view name) noexcept {
  if (entry.empty() || !starts_with(name, entry)) return false;
  if (name.size() == entry.size() || entry.back() == '/' || entry.back() == ':') return true;
  const std::string_view rest = all_after(name, entry.size());
  return rest.front() == '/' || rest == " (deleted)";
}

namespace {

// What /proc calls it, of things that have no name of their own: for where there is no /proc, in
// another root. By a request that only such a thing knows, and that changes nothing.
std::string_view kind_of(int descriptor, const FileStatus& status) noexcept {
  constexpr unsigned kRequestIdOfEvent = 0x80082407;  // PERF_EVENT_IOC_ID
  std::uint64_t number = 0;
  if ((status.mode & S_IFMT) == S_IFSOCK) return "socket:";
  if ((status.mode & S_IFMT) != 0) return {};
  const long ring = system_call(__NR_io_uring_register, descriptor, IORING_REGISTER_PROBE, 0, 0);
  if (ring == -EFAULT || ring == -EINVAL) return "anon_inode:[io_uring]";
  if (!failed(system_call(__NR_ioctl, descriptor, kRequestIdOfEvent, &number))) {
    return "anon_inode:[perf_event]";
  }
  return {};
}

}  // namespace

bool Policy::lies_outside(int flags, int descriptor) const noexcept {
  const int type = flags & MAP_TYPE;
  return (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && (flags & MAP_ANONYMOUS) == 0 &&
         allows(descriptor);
}

bool Policy::allows(int descriptor) const noexcept {
  if (allowed_.empty() || descriptor < 0) return false;
  Line<64> link;
  link.text("/proc/self/fd/").decimal(descriptor);
  char name[4096];
  const long length = system_call(__NR_readlink, link.c_string(), name, sizeof name);
  FileStatus status{};
  const bool is_there = !failed(system_call(__NR_fstat, descriptor, &status));
  const bool is_device = is_there && status.is_device();
  std::string_view known(name, failed(length) ? 0 : static_cast<std::size_t>(length));
  if (known.empty() && is_there) known = kind_of(descriptor, status);
  for (std::string_view rest = allowed_; !rest.empty();) {
    const std::string_view entry = take_before(&rest, kFieldEnd);
    if (name_matches(entry, known)) return true;
    if (!is_device || entry.size() >= 512) continue;
    Line<512> path;
    path.text(entry);
    FileStatus listed{};
    if (!failed(system_call(__NR_stat, path.c_string(), &listed)) && listed.is_device() &&
        (listed.mode & S_IFMT) == (status.mode & S_IFMT) &&
        listed.special_device == status.special_device) {
      return true;
    }
  }
  return false;
}

}  // namespace exclave::loader
