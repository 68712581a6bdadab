#include "loader/policy.hpp"

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
  const std::string_view known(name, failed(length) ? 0 : static_cast<std::size_t>(length));
  FileStatus status{};
  const bool is_device =
      !failed(system_call(__NR_fstat, descriptor, &status)) && status.is_device();
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
