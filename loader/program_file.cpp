#include "loader/program_file.hpp"

#include <linux/prctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "loader/filter.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

bool is_blank(char c) noexcept {
  return c == ' ' || c == '\t';
}

// Without rights over the system our filter takes no_new_privs, if it is not there already, and
// then Linux gives none to anybody.
bool may_gain_rights() noexcept {
  constexpr unsigned kRightOverSystem = 21;  // CAP_SYS_ADMIN
  if (system_call(__NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) return false;
  return filter_is_installed() || has_right(kRightOverSystem);
}

// Would Linux give it rights, which this process cannot?
bool would_gain_rights(long descriptor, const FileStatus& status) noexcept {
  const bool sets_user = (status.mode & S_ISUID) != 0 && status.uid != system_call(__NR_geteuid);
  const bool sets_group = (status.mode & S_ISGID) != 0 && (status.mode & S_IXGRP) != 0 &&
                          status.gid != system_call(__NR_getegid);
  if ((!sets_user && !sets_group) || !may_gain_rights()) return false;
  struct statfs mount {};
  return failed(system_call(__NR_fstatfs, descriptor, &mount)) || (mount.f_flags & ST_NOSUID) == 0;
}

}  // namespace

void ProgramFile::close() noexcept {
  if (descriptor >= 0) (void)system_call(__NR_close, descriptor);
  descriptor = -1;
}

int open_program(int folder, const char* path, int flags, ProgramFile* file) noexcept {
  if (path[0] == 0 && (flags & AT_EMPTY_PATH) == 0) return -ENOENT;
  const int nofollow = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0;
  long opened = 0;
  if (path[0] == 0) {
    if (folder == AT_FDCWD) return -EACCES;
    if (failed(system_call(__NR_fcntl, folder, F_GETFD))) return -EBADF;
    // A descriptor may be open for its path only: opened again by its name.
    Line<64> link;
    link.text("/proc/self/fd/").decimal(folder);
    opened = system_call(__NR_openat, AT_FDCWD, link.c_string(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } else {
    opened = system_call(__NR_openat, folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | nofollow);
  }
  if (failed(opened)) {
    return opened == -ENXIO || opened == -ENODEV ? -EACCES : static_cast<int>(opened);
  }
  file->descriptor = static_cast<int>(opened);
  FileStatus status{};
  long result = system_call(__NR_fstat, opened, &status);
  if (!failed(result) && !status.is_regular()) result = -EACCES;
  if (!failed(result)) {
    // What execve says before it looks into the file: the mount, effective rights, whether somebody
    // has it open for writing. Older kernels cannot be asked for all of it.
    constexpr int kOnlyCheck = 0x10000;  // AT_EXECVE_CHECK, since Linux 6.14
    const char* const words[] = {"", nullptr};
    result = system_call(__NR_execveat, opened, "", words, words + 1, AT_EMPTY_PATH | kOnlyCheck);
    if (result == -EINVAL || result == -ENOSYS) {
      result = system_call(__NR_faccessat2, opened, "", 1, AT_EMPTY_PATH | AT_EACCESS);
    }
    if (result == -ENOSYS) result = (status.mode & 0111) != 0 ? 0 : -EACCES;
  }
  if (!failed(result)) {
    file->gains_rights = would_gain_rights(opened, status);
    memset(file->head, 0, kHeadBytes);
    result = system_call(__NR_pread64, opened, file->head, kHeadBytes, 0);
    if (!failed(result)) file->head_bytes = static_cast<std::size_t>(result);
  }
  if (!failed(result)) return 0;
  file->close();
  return static_cast<int>(result);
}

int check_elf(const ProgramFile& file) noexcept {
  if (file.head_bytes < sizeof(Elf64_Ehdr)) return -ENOEXEC;
  const Elf64_Ehdr& header = file.header();
  const bool good = memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
                    header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64 &&
                    (header.e_type == ET_EXEC || header.e_type == ET_DYN) &&
                    header.e_phentsize == sizeof(Elf64_Phdr) && header.e_phnum != 0;
  return good ? 0 : -ENOEXEC;
}

int check_own_elf(const ProgramFile& file) noexcept {
  const int bad = check_elf(file);
  return bad == 0 && file.gains_rights ? -EPERM : bad;
}

int open_interpreter(const ProgramFile& file, ProgramFile* interpreter) noexcept {
  const Elf64_Ehdr& header = file.header();
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr part{};
    if (system_call(__NR_pread64, file.descriptor, &part, sizeof part,
                    header.e_phoff + i * sizeof part) != sizeof part) {
      return -ENOEXEC;
    }
    if (part.p_type != PT_INTERP) continue;
    char path[4096];
    if (part.p_filesz < 2 || part.p_filesz > sizeof path ||
        system_call(__NR_pread64, file.descriptor, path, part.p_filesz, part.p_offset) !=
            static_cast<long>(part.p_filesz) ||
        path[part.p_filesz - 1] != 0) {
      return -ENOEXEC;
    }
    if (path[0] == 0) return -EACCES;  // the folder that it is in, to Linux
    const int opened = open_program(AT_FDCWD, path, 0, interpreter);
    if (opened != 0) return opened;
    if (check_elf(*interpreter) == 0) return 0;
    interpreter->close();
    return -ELIBBAD;
  }
  return 0;
}

int parse_script(const ProgramFile& file, ScriptLine* line) noexcept {
  const char* const head = file.head;
  std::size_t end = 2;
  while (end < kHeadBytes && head[end] != '\n' && head[end] != 0) ++end;
  const bool whole = end < kHeadBytes && head[end] == '\n';
  // Of a line that does not end, Linux takes all it read but a byte.
  if (!whole) end = kHeadBytes - 1;
  while (is_blank(head[end - 1])) --end;
  std::size_t at = 2;
  while (at < end && is_blank(head[at])) ++at;
  const std::size_t name = at;
  while (at < end && head[at] != 0 && !is_blank(head[at])) ++at;
  const std::size_t name_bytes = at - name;
  // A name that goes on behind what was read could be another one.
  const bool cut = !whole && at == kHeadBytes - 1 && !is_blank(head[at]) && head[at] != 0;
  if (name_bytes == 0 || cut) return -ENOEXEC;
  memcpy(line->interpreter, head + name, name_bytes);
  line->interpreter[name_bytes] = 0;
  line->has_argument = at < end && head[at] != 0;
  while (at < end && is_blank(head[at])) ++at;
  memcpy(line->argument, head + at, end - at);
  line->argument[end - at] = 0;
  return 0;
}

int check_program(int folder, const char* path, int flags, ProgramKind* kind) noexcept {
  ScriptLine line;
  for (int depth = 0; depth <= kMaxScriptDepth; ++depth) {
    ProgramFile file;
    int result = open_program(folder, path, flags, &file);
    if (result != 0) return result;
    const bool script = file.is_script();
    FileStatus status{};
    if (depth == 0 && !failed(system_call(__NR_fstat, file.descriptor, &status))) {
      kind->is_loader =
          status.device == g_process.loader_device && status.inode == g_process.loader_inode;
      kind->is_script = script;
    }
    result = script ? parse_script(file, &line) : check_own_elf(file);
    if (!script && result == 0) {
      ProgramFile interpreter;
      result = open_interpreter(file, &interpreter);
      interpreter.close();
    }
    file.close();
    if (!script || result != 0) return result;
    folder = AT_FDCWD;
    path = line.interpreter;
    flags = 0;
  }
  return -ELOOP;
}

}  // namespace exclave::loader
