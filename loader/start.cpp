// How a program comes to run: the kernel starts the loader, which reads its options, opens the
// program, opens the books, maps the program and its interpreter into it, builds its
// stack there, sets the trap and the filter, and jumps.
#include <linux/prctl.h>

#include "loader/elf_image.hpp"
#include "loader/filter.hpp"
#include "loader/initial_stack.hpp"
#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/program_memory.hpp"
#include "loader/signals.hpp"
#include "loader/slots.hpp"
#include "loader/text.hpp"
#include "loader/trap.hpp"

extern "C" [[noreturn]] void exclave_loader_start(std::uintptr_t* stack);

__asm__(
    ".text\n"
    ".globl _start\n"
    ".type _start, @function\n"
    "_start:\n\t"
    "xorl %ebp, %ebp\n\t"
    "movq %rsp, %rdi\n\t"
    "andq $-16, %rsp\n\t"
    "callq exclave_loader_start\n\t"
    "hlt\n");

namespace exclave::loader {
namespace {

enum ExitCode : int { kOwnFault = 1, kNotExecutable = 126, kNotFound = 127 };

const char* errno_text(int error) noexcept {
  switch (error) {
    case ENOENT:
      return "no such file";
    case ENOTDIR:
      return "a part of the path is no folder";
    case EACCES:
      return "not executable, or not readable";
    case EPERM:
      return "runs with another's rights, which cannot be given here";
    case ETXTBSY:
      return "open for writing";
    case ENOEXEC:
      return "not a program for 64-bit x86 Linux, nor a script";
    case ELIBBAD:
      return "its interpreter is no program for 64-bit x86 Linux";
    case ELOOP:
      return "too many links, or scripts that run scripts";
    case ENOMEM:
      return "does not fit into the enclave's range";
    case E2BIG:
      return "arguments and environment are too long";
    default:
      return nullptr;
  }
}

[[noreturn]] void die(int code, const char* what, const char* why) noexcept {
  Line<1024> line;
  line.text("exclave: exec: ").text(what);
  if (*what != 0) line.text(": ");
  line.text(why).put('\n').write_to(2);
  for (;;) (void)system_call(__NR_exit_group, code);
}

[[noreturn]] void die_of(const char* path, long error) noexcept {
  const auto number = static_cast<int>(-error);
  const int code = number == ENOENT || number == ENOTDIR ? kNotFound : kNotExecutable;
  const char* const known = errno_text(number);
  if (known != nullptr) die(code, path, known);
  Line<64> text;
  die(code, path, text.text("error ").decimal(number).c_string());
}

// The program's arguments, with room in front for what scripts add: two for each, and the script's
// path takes the place of the first.
class Arguments {
 public:
  Arguments(char** given, std::size_t count) noexcept {
    const std::size_t words = kSpare + count + 1;
    const std::size_t bytes = (words * sizeof(char*) + kPage - 1) & ~(kPage - 1);
    const long memory = system_call(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (failed(memory)) die(kOwnFault, "", "out of memory");
    first_ = reinterpret_cast<const char**>(memory) + kSpare;
    memcpy(first_, given, count * sizeof(char*));
  }
  void run_script(const ScriptLine& line, const char* script) noexcept {
    *first_ = script;
    if (line.has_argument) *--first_ = line.argument;
    *--first_ = line.interpreter;
  }
  const char* const* get() const noexcept { return first_; }

 private:
  static constexpr std::size_t kSpare = std::size_t{2} * kMaxScriptDepth;
  const char** first_ = nullptr;
};

ScriptLine g_scripts[kMaxScriptDepth];

// Opens the program, through scripts if need be.
void find_program(const char* path, Arguments& arguments, ProgramFile* file) noexcept {
  const char* current = path;
  for (int depth = 0;; ++depth) {
    int bad = open_program(AT_FDCWD, current, 0, file);
    if (bad == 0 && file->is_script()) {
      bad = depth == kMaxScriptDepth ? -ELOOP : parse_script(*file, &g_scripts[depth]);
      if (bad == 0) {
        arguments.run_script(g_scripts[depth], current);
        current = g_scripts[depth].interpreter;
        file->close();
        continue;
      }
    }
    if (bad == 0) bad = check_own_elf(*file);
    if (bad != 0) die_of(current, bad);
    return;
  }
}

void name_process(const ProgramFile& file, const char* path) noexcept {
  Line<64> link;
  link.text("/proc/self/fd/").decimal(file.descriptor);
  const long length = system_call(__NR_readlink, link.c_string(), g_process.program_path,
                                  sizeof g_process.program_path - 1);
  if (failed(length)) {
    Line<sizeof g_process.program_path> name;
    memcpy(g_process.program_path, name.text(path).c_string(), name.view().size() + 1);
  }
  const char* base = path;
  for (const char* at = path; *at != 0; ++at) {
    if (*at == '/') base = at + 1;
  }
  Line<64> name;
  (void)system_call(__NR_prctl, PR_SET_NAME, name.text(base).c_string());
}

void know_oneself() noexcept {
  (void)system_call(__NR_readlink, "/proc/self/exe", g_process.loader_path,
                    sizeof g_process.loader_path - 1);
  FileStatus status{};
  if (!failed(system_call(__NR_stat, "/proc/self/exe", &status))) {
    g_process.loader_device = status.device;
    g_process.loader_inode = status.inode;
  }
}

struct Entry {
  std::uintptr_t address = 0;
  std::uintptr_t stack = 0;
};
// Filled on a slot's stack, where the core finds its thread slot.
struct Job {
  KernelStack kernel{};
  Entry entry;
};

void load(Job& job) noexcept {
  const KernelStack& kernel = job.kernel;
  const char* const path = kernel.arguments[3];
  Options options;
  if (!read_options(kernel.arguments[1], &options)) {
    die(kOwnFault, "", "the loader is started by `exclave exec`");
  }
  know_oneself();
  Arguments arguments(kernel.arguments + kArgumentsBeforeProgram,
                      kernel.argument_count - kArgumentsBeforeProgram);
  ProgramFile file;
  find_program(path, arguments, &file);
  if (options.close_descriptor >= 0) (void)system_call(__NR_close, options.close_descriptor);
  ProgramFile interpreter_file;
  if (const int bad = open_interpreter(file, &interpreter_file); bad != 0) die_of(path, bad);
  if (!g_process.open(options, kernel.arguments[2])) {
    die(kOwnFault, "", "no address space for the enclave's range");
  }
  name_process(file, path);
  learn_to_copy();

  // Low in the window, so that the break has room above: 4 GiB and up where the window is large.
  const Extent window = g_process.port.program_window();
  std::uintptr_t spread = 0;
  (void)g_process.port.entropy(&spread, sizeof spread);
  const std::uintptr_t low = window.base + window.size / 16 + spread % (window.size / 64);
  ElfImage program, interpreter;
  if (const int bad = map_elf(file, low & ~(kPage - 1), &program); bad != 0) die_of(path, bad);
  file.close();
  const bool has_interpreter = interpreter_file.descriptor >= 0;
  if (has_interpreter) {
    if (const int bad = map_elf(interpreter_file, 0, &interpreter); bad != 0) die_of(path, bad);
    interpreter_file.close();
  }
  (void)g_process.inside->start_break(program.end);
  g_process.first_break = g_process.inside->set_break(0);
  g_process.data_bytes = program.data_bytes;
  const Start start{arguments.get(), path, &program, has_interpreter ? &interpreter : nullptr};
  const std::intptr_t stack = build_initial_stack(kernel, start);
  if (stack < 0) die_of(path, stack);

  // Whatever mask and action came with us is the program's.
  SignalMask before = 0;
  const SignalMask only = kSigsysBit;
  (void)system_call(__NR_rt_sigprocmask, SIG_UNBLOCK, &only, &before, sizeof before);
  KernelAction action{};
  (void)system_call(__NR_rt_sigaction, SIGSYS, 0, &action, sizeof before);
  inherit_signals(options.sigsys_ignored || action.handler == kIgnored,
                  options.sigsys_blocked || (before & kSigsysBit) != 0);
  if (failed(install_trap(sigsys_is_ignored()))) die(kOwnFault, "", "SIGSYS cannot be handled");
  if (!filter_is_installed()) {
    if (failed(install_filter())) die(kOwnFault, "", "the system refuses system call filters");
  }
  job.entry = {has_interpreter ? interpreter.entry : program.entry,
               static_cast<std::uintptr_t>(stack)};
}

}  // namespace
}  // namespace exclave::loader

// Stack pointer and address are found in memory, so that every register is as Linux leaves it.
extern "C" {
[[gnu::visibility("hidden")]] std::uintptr_t exclave_loader_entry[2];
[[noreturn]] void exclave_loader_jump();
}
__asm__(
    ".text\n"
    ".type exclave_loader_jump, @function\n"
    "exclave_loader_jump:\n\t"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\t"
    "pxor %xmm\\n, %xmm\\n\n\t"
    ".endr\n\t"
    ".irp register, eax, ebx, ecx, edx, esi, edi, ebp, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d"
    "\n\t"
    "xorl %\\register, %\\register\n\t"
    ".endr\n\t"
    "pushq $0x202\n\t"  // interrupts only
    "popfq\n\t"
    "movq exclave_loader_entry+8(%rip), %rsp\n\t"
    "jmpq *exclave_loader_entry(%rip)\n");

extern "C" void exclave_loader_start(std::uintptr_t* stack) {
  using namespace exclave::loader;  // NOLINT(google-build-using-namespace): the loader's main
  Job job;
  KernelStack& kernel = job.kernel;
  kernel.argument_count = stack[0];
  kernel.arguments = reinterpret_cast<char**>(stack + 1);
  kernel.environment = kernel.arguments + kernel.argument_count + 1;
  char** at = kernel.environment;
  while (*at != nullptr) ++at;
  kernel.auxiliary = reinterpret_cast<Elf64_auxv_t*>(at + 1);
  if (kernel.argument_count <= kArgumentsBeforeProgram) {
    die(kOwnFault, "", "the loader is started by `exclave exec`");
  }
  if (!open_slots()) die(kOwnFault, "", "out of memory");
  const SlotIndex slot = take_slot(0);
  run_in_slot(
      slot, [](void* argument) { load(*static_cast<Job*>(argument)); }, &job);
  give_slot_back(slot);
  exclave_loader_entry[0] = job.entry.address;
  exclave_loader_entry[1] = job.entry.stack;
  exclave_loader_jump();
}
