// The file of a program: found, checked as execve checks it, and its interpreters followed.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>

namespace exclave::loader {

inline constexpr std::size_t kHeadBytes = 256;  // of a file: what decides its kind
inline constexpr int kMaxScriptDepth = 5;

// An executable file, open for reading.
struct ProgramFile {
  int descriptor = -1;
  char head[kHeadBytes] = {};  // zeroes behind the file's end
  std::size_t head_bytes = 0;
  bool gains_rights = false;  // it sets a user or a group that this process cannot give it

  bool is_script() const noexcept { return head_bytes >= 2 && head[0] == '#' && head[1] == '!'; }
  const Elf64_Ehdr& header() const noexcept { return *reinterpret_cast<const Elf64_Ehdr*>(head); }
  void close() noexcept;
};

// 0, or the negative errno that execve would answer. The file is left open.
int open_program(int folder, const char* path, int flags, ProgramFile* file) noexcept;
// 0, or -ENOEXEC: not a 64-bit x86 program.
int check_elf(const ProgramFile& file) noexcept;
// Also -EPERM: it would gain rights. Linux does not look at those of scripts, nor of interpreters.
int check_own_elf(const ProgramFile& file) noexcept;

// The program's interpreter (ld.so), if it names one: opened, and checked as execve does. 0, or a
// negative errno. interpreter->descriptor stays -1 if there is none.
int open_interpreter(const ProgramFile& file, ProgramFile* interpreter) noexcept;

// The two parts of a script's first line, zero-terminated. -ENOEXEC: there is no interpreter in it.
struct ScriptLine {
  char interpreter[kHeadBytes];
  char argument[kHeadBytes];
  bool has_argument;
};
int parse_script(const ProgramFile& file, ScriptLine* line) noexcept;

struct ProgramKind {
  bool is_loader = false;  // this very loader
  bool is_script = false;
};
// Would execve of it succeed? Follows scripts to their interpreters. 0 or the negative errno.
int check_program(int folder, const char* path, int flags, ProgramKind* kind) noexcept;

}  // namespace exclave::loader
