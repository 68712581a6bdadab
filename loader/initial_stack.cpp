#include "loader/initial_stack.hpp"

#include <linux/prctl.h>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

constexpr std::size_t kStackUsual = std::size_t{8} << 20;
constexpr std::size_t kStackMost = std::size_t{256} << 20;
// Below it lies nothing: whoever runs out of it faults, and does not write over others' memory.
constexpr std::size_t kStackGuard = std::size_t{1} << 20;
constexpr int kLimitStack = 3;

// As large as the limit allows: it does not grow, for nothing in the range is left to the kernel.
std::size_t stack_bytes() noexcept {
  struct {
    std::uint64_t now, most;
  } limit{};
  std::size_t bytes = kStackUsual;
  if (!failed(system_call(__NR_prlimit64, 0, kLimitStack, 0, &limit))) bytes = limit.now;
  const std::size_t most = g_process.port.program_window().size / 16;
  if (bytes > kStackMost) bytes = kStackMost;
  if (bytes > most) bytes = most;
  if (bytes < 64 * kPage) bytes = 64 * kPage;
  return (bytes + kPage - 1) & ~(kPage - 1);
}

std::size_t count_of(const char* const* strings) noexcept {
  std::size_t count = 0;
  while (strings[count] != nullptr) ++count;
  return count;
}

// Strings go down from the top; then the vectors are written upwards from the stack pointer.
class StackBuilder {
 public:
  StackBuilder(std::uintptr_t bottom, std::uintptr_t top) noexcept : bottom_(bottom), at_(top) {}

  std::uintptr_t put(const void* bytes, std::size_t size) noexcept {
    if (at_ - bottom_ < size + kPage) {
      full_ = true;
      return at_;
    }
    at_ -= size;
    memcpy(reinterpret_cast<void*>(at_), bytes, size);
    return at_;
  }
  std::uintptr_t put_string(const char* text) noexcept { return put(text, strlen(text) + 1); }
  // Room for so many words, 16-aligned. Null: none.
  std::uintptr_t* vectors(std::size_t words) noexcept {
    const std::uintptr_t start = (at_ - words * sizeof(std::uintptr_t)) & ~std::uintptr_t{15};
    if (full_ || start > at_ || start < bottom_ + kPage) return nullptr;
    return reinterpret_cast<std::uintptr_t*>(start);
  }
  std::uintptr_t at() const noexcept { return at_; }

 private:
  std::uintptr_t bottom_;
  std::uintptr_t at_;
  bool full_ = false;
};

// What ps and /proc show as command line and environment. Not worth a failure where the kernel does
// not know how.
void tell_kernel(std::uintptr_t first_argument, std::uintptr_t first_variable, std::uintptr_t end,
                 std::uintptr_t stack, const ElfImage& program, const Elf64_auxv_t* auxiliary,
                 std::size_t auxiliary_bytes) noexcept {
  prctl_mm_map map{};
  map.start_code = map.start_data = program.start;
  map.end_code = map.end_data = map.start_brk = map.brk = program.end;
  map.start_brk += kPage;
  map.brk += kPage;
  map.start_stack = stack;
  map.arg_start = first_argument;
  map.arg_end = map.env_start = first_variable;
  map.env_end = end;
  map.auxv = reinterpret_cast<__u64*>(const_cast<Elf64_auxv_t*>(auxiliary));
  map.auxv_size = static_cast<__u32>(auxiliary_bytes);
  map.exe_fd = static_cast<__u32>(-1);
  (void)system_call(__NR_prctl, PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
}

}  // namespace

std::intptr_t build_initial_stack(const KernelStack& kernel, const Start& start) noexcept {
  const std::size_t size = stack_bytes();
  const int protection = PROT_READ | PROT_WRITE | (start.program->executable_stack ? PROT_EXEC : 0);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
  EnclaveManager& inside = *g_process.inside;
  const std::intptr_t guard = inside.map(0, kStackGuard + size, PROT_NONE, kFlags, -1, 0);
  if (guard < 0) return guard;
  const std::uintptr_t bottom = static_cast<std::uintptr_t>(guard) + kStackGuard;
  const std::uintptr_t top = bottom + size;
  if (const int bad = inside.protect(bottom, size, protection); bad != 0) return bad;
  g_process.stack = {bottom, size};
  StackBuilder stack(bottom, top - 8);  // Linux ends it with a null word

  const std::uintptr_t path = stack.put_string(start.path);
  const std::size_t arguments = count_of(start.arguments);
  const std::size_t variables = count_of(kernel.environment);
  std::size_t auxiliaries = 0;
  while (kernel.auxiliary[auxiliaries].a_type != AT_NULL) ++auxiliaries;
  std::uintptr_t platform = 0, random = 0;
  // The strings' addresses are known once they are copied, and lie in the order of the vectors, the
  // last one highest: copied backwards.
  const std::uintptr_t variables_end = stack.at();
  std::size_t text_bytes = 0;
  for (std::size_t i = 0; i < variables; ++i) text_bytes += strlen(kernel.environment[i]) + 1;
  for (std::size_t i = 0; i < arguments; ++i) text_bytes += strlen(start.arguments[i]) + 1;
  const std::size_t words = 1 + arguments + 1 + variables + 1 + 2 * (auxiliaries + 1);
  if (text_bytes + words * sizeof(std::uintptr_t) > size / 4 * 3) return -E2BIG;
  for (std::size_t i = variables; i-- > 0;) (void)stack.put_string(kernel.environment[i]);
  const std::uintptr_t first_variable = stack.at();
  for (std::size_t i = arguments; i-- > 0;) (void)stack.put_string(start.arguments[i]);
  const std::uintptr_t first_argument = stack.at();
  for (std::size_t i = 0; i < auxiliaries; ++i) {
    const Elf64_auxv_t& entry = kernel.auxiliary[i];
    const auto* const text = reinterpret_cast<const char*>(entry.a_un.a_val);
    if (entry.a_type == AT_PLATFORM) platform = stack.put_string(text);
    if (entry.a_type == AT_RANDOM) random = stack.put(text, 16);
  }

  std::uintptr_t* const vectors = stack.vectors(words);
  if (vectors == nullptr) return -E2BIG;
  std::uintptr_t* at = vectors;
  *at++ = arguments;
  std::uintptr_t text = first_argument;
  for (std::size_t i = 0; i < arguments; ++i) {
    *at++ = text;
    text += strlen(start.arguments[i]) + 1;
  }
  *at++ = 0;
  for (std::size_t i = 0; i < variables; ++i) {
    *at++ = text;
    text += strlen(kernel.environment[i]) + 1;
  }
  *at++ = 0;
  const auto* const auxiliary = reinterpret_cast<const Elf64_auxv_t*>(at);
  for (std::size_t i = 0; i <= auxiliaries; ++i) {
    const Elf64_auxv_t& entry = kernel.auxiliary[i];
    std::uintptr_t value = entry.a_un.a_val;
    switch (entry.a_type) {
      case AT_PHDR:
        value = start.program->headers;
        break;
      case AT_PHNUM:
        value = start.program->header_count;
        break;
      case AT_BASE:
        value = start.interpreter != nullptr ? start.interpreter->bias : 0;
        break;
      case AT_ENTRY:
        value = start.program->entry;
        break;
      case AT_EXECFN:
        value = path;
        break;
      case AT_PLATFORM:
        value = platform;
        break;
      case AT_RANDOM:
        value = random;
        break;
      default:
        break;
    }
    *at++ = entry.a_type;
    *at++ = value;
  }
  tell_kernel(first_argument, first_variable, variables_end,
              reinterpret_cast<std::uintptr_t>(vectors), *start.program, auxiliary,
              (auxiliaries + 1) * sizeof(Elf64_auxv_t));
  return reinterpret_cast<std::intptr_t>(vectors);
}

}  // namespace exclave::loader
