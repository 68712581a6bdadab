#include "loader/elf_image.hpp"

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

constexpr unsigned kMostHeaders = 512;

std::uintptr_t page_down(std::uintptr_t n) noexcept {
  return n & ~(kPage - 1);
}
std::uintptr_t page_up(std::uintptr_t n) noexcept {
  return (n + kPage - 1) & ~(kPage - 1);
}

int protection_of(const Elf64_Phdr& part) noexcept {
  return ((part.p_flags & PF_R) != 0 ? PROT_READ : 0) |
         ((part.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
         ((part.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
}

struct Parts {
  Elf64_Phdr headers[kMostHeaders];
  unsigned count = 0;
  std::uintptr_t low = UINTPTR_MAX, high = 0;
  std::size_t alignment = kPage;
};

int read_parts(const ProgramFile& file, Parts* parts) noexcept {
  const Elf64_Ehdr& header = file.header();
  if (header.e_phnum > kMostHeaders) return -ENOEXEC;
  parts->count = header.e_phnum;
  const std::size_t bytes = parts->count * sizeof(Elf64_Phdr);
  if (system_call(__NR_pread64, file.descriptor, parts->headers, bytes, header.e_phoff) !=
      static_cast<long>(bytes)) {
    return -ENOEXEC;
  }
  for (unsigned i = 0; i < parts->count; ++i) {
    const Elf64_Phdr& part = parts->headers[i];
    if (part.p_type != PT_LOAD) continue;
    const std::uintptr_t end = part.p_vaddr + part.p_memsz;
    if (part.p_filesz > part.p_memsz || end < part.p_vaddr || end > UINTPTR_MAX / 2 ||
        (part.p_filesz != 0 && part.p_vaddr % kPage != part.p_offset % kPage)) {
      return -ENOEXEC;
    }
    if (page_down(part.p_vaddr) < parts->low) parts->low = page_down(part.p_vaddr);
    if (page_up(end) > parts->high) parts->high = page_up(end);
    const bool power_of_two = (part.p_align & (part.p_align - 1)) == 0;
    if (power_of_two && part.p_align > parts->alignment) parts->alignment = part.p_align;
  }
  return parts->high > parts->low ? 0 : -ENOEXEC;
}

// A place for all of it, as its distance from the addresses in the file, which may lie above.
int find_bias(const Parts& parts, std::uintptr_t low, std::uintptr_t* bias) noexcept {
  const std::size_t size = parts.high - parts.low;
  EnclaveManager& inside = *g_process.inside;
  const std::size_t asked = size + parts.alignment;
  // Mapped and given up again: no other thread runs yet.
  const std::intptr_t place =
      inside.map(low, asked, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place < 0) return static_cast<int>(place);
  (void)inside.unmap(static_cast<std::uintptr_t>(place), asked);
  const std::uintptr_t aligned =
      (static_cast<std::uintptr_t>(place) + parts.alignment - 1) & ~(parts.alignment - 1);
  *bias = aligned - (parts.low & ~(parts.alignment - 1));
  return 0;
}

int map_part(const ProgramFile& file, const Elf64_Phdr& part, std::uintptr_t bias) noexcept {
  const std::uintptr_t start = bias + part.p_vaddr, base = page_down(start);
  const std::uintptr_t file_end = start + part.p_filesz, end = page_up(start + part.p_memsz);
  const int protection = protection_of(part);
  constexpr int kFixed = MAP_PRIVATE | MAP_FIXED;
  EnclaveManager& inside = *g_process.inside;
  if (part.p_filesz != 0) {
    const std::intptr_t mapped = inside.map(base, file_end - base, protection, kFixed,
                                            file.descriptor, page_down(part.p_offset));
    if (mapped < 0) return static_cast<int>(mapped);
    // The rest of the last page is the program's zeroes, unless nobody may write there.
    if (part.p_memsz > part.p_filesz && (protection & PROT_WRITE) != 0 &&
        file_end != page_up(file_end)) {
      FileStatus status{};
      (void)system_call(__NR_fstat, file.descriptor, &status);
      // Not there, where the file has been cut off.
      const std::uint64_t last_page = page_down(part.p_offset + part.p_filesz);
      if (last_page >= static_cast<std::uint64_t>(status.size)) return -ENOEXEC;
      memset(reinterpret_cast<void*>(file_end), 0, page_up(file_end) - file_end);
    }
  }
  const std::uintptr_t rest = part.p_filesz != 0 ? page_up(file_end) : base;
  if (rest >= end) return 0;
  const std::intptr_t mapped =
      inside.map(rest, end - rest, protection, kFixed | MAP_ANONYMOUS, -1, 0);
  return mapped < 0 ? static_cast<int>(mapped) : 0;
}

}  // namespace

int map_elf(const ProgramFile& file, std::uintptr_t low, ElfImage* image) noexcept {
  Parts parts;
  if (const int bad = read_parts(file, &parts); bad != 0) return bad;
  const Elf64_Ehdr& header = file.header();
  if (header.e_type == ET_DYN) {
    if (const int bad = find_bias(parts, low, &image->bias); bad != 0) return bad;
  }
  image->entry = image->bias + header.e_entry;
  image->header_count = parts.count;
  image->start = image->bias + parts.low;
  image->end = image->bias + parts.high;
  std::uintptr_t data_start = 0, data_end = 0;
  image->executable_stack = true;  // Linux' default for programs that do not say
  for (unsigned i = 0; i < parts.count; ++i) {
    const Elf64_Phdr& part = parts.headers[i];
    if (part.p_type == PT_GNU_STACK) image->executable_stack = (part.p_flags & PF_X) != 0;
    if (part.p_type != PT_LOAD) continue;
    if (part.p_vaddr > data_start) data_start = part.p_vaddr;
    if (part.p_vaddr + part.p_filesz > data_end) data_end = part.p_vaddr + part.p_filesz;
    if (const int bad = map_part(file, part, image->bias); bad != 0) return bad;
    if (header.e_phoff >= part.p_offset && header.e_phoff < part.p_offset + part.p_filesz) {
      image->headers = image->bias + part.p_vaddr + (header.e_phoff - part.p_offset);
    }
  }
  image->data_bytes = data_end - data_start;
  return 0;
}

}  // namespace exclave::loader
