// The same random calls, once through MemoryCalls and once as plain system calls in a parallel
// window: answers and pages must agree. Differences that are meant: PROT_EXEC is refused, and what
// Linux would replace under MAP_FIXED but the application does not own (there is none in these
// windows).
#include <sys/syscall.h>

#include <array>
#include <random>
#include <string>

#include "support/process_fixture.hpp"
#include "support/quiet_addresses.hpp"

namespace exclave {
namespace {

using testing_support::is_page_mapped;
using testing_support::memfd_of;
using testing_support::OwnedDescriptor;
using testing_support::Prober;
using testing_support::ProcessFixture;

constexpr std::size_t kPage = kPageBytes;
constexpr std::size_t kWindowPages = 48;
constexpr std::size_t kFilePages = 1024 * kWindowPages;

class LinuxDifferential : public ProcessFixture, public testing::WithParamInterface<unsigned> {
 protected:
  // An address range where nothing stands, far from what the kernel hands out.
  static std::uintptr_t free_window(unsigned n) {
    const std::uintptr_t base = testing_support::kQuietAddresses + (std::uintptr_t{n} << 24);
    for (std::size_t i = 0; i < kWindowPages; ++i) EXPECT_FALSE(is_page_mapped(base + i * kPage));
    return base;
  }

  // . hole, n r w b as in the other tests; and which page of the file stands there.
  std::string picture(std::uintptr_t base) {
    std::string text;
    for (std::size_t i = 0; i < kWindowPages; ++i) {
      const std::uintptr_t page = base + i * kPage;
      if (!is_page_mapped(page)) {
        text += ". ";
        continue;
      }
      const bool readable = prober_.can_read(page);
      text += readable ? (prober_.can_write(page) ? 'b' : 'r') : 'n';
      text += readable ? static_cast<char>('0' + *reinterpret_cast<volatile unsigned char*>(page))
                       : '?';
    }
    return text;
  }

  std::string book(std::uintptr_t base) {
    std::string text;
    for (std::size_t i = 0; i < kWindowPages; ++i) {
      const auto info = allocator_->query(base + i * kPage, kPage);
      // x86 cannot give write without read: Linux shows both.
      text += info.ok() ? "nrbb"[static_cast<int>(info->protection)] : '.';
    }
    return text;
  }

  static std::string without_files(const std::string& picture) {
    std::string text;
    for (std::size_t i = 0; i < picture.size(); i += 2) text += picture[i];
    return text;
  }

  Prober prober_;
};

TEST_P(LinuxDifferential, RandomCallsAgree) {
  const OwnedDescriptor ours_file(memfd_of(kFilePages * kPage));
  const OwnedDescriptor theirs_file(memfd_of(kFilePages * kPage));
  std::size_t maps = 0;
  const std::uintptr_t ours = free_window(2 * GetParam());
  const std::uintptr_t theirs = free_window(2 * GetParam() + 1);
  constexpr std::array kProtections = {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE};
  std::mt19937_64 random(GetParam());
  const auto linux_answer = [](std::intptr_t result) {
    return result == -1 ? -std::intptr_t{errno} : result;
  };

  for (int step = 0; step < 1500; ++step) {
    const std::size_t first = random() % kWindowPages;
    const std::size_t count = 1 + random() % std::min<std::size_t>(12, kWindowPages - first);
    // Odd lengths and, now and then, odd addresses, offsets, and no length at all.
    const std::size_t length = random() % 40 == 0  ? 0
                               : random() % 4 == 0 ? count * kPage - random() % kPage
                                                   : count * kPage;
    const std::uintptr_t odd = length != 0 && random() % 40 == 0 ? 1 + random() % 4095 : 0;
    const std::uintptr_t at = first * kPage + odd;
    const int protection = kProtections[random() % kProtections.size()];
    std::intptr_t our_answer = 0;
    std::intptr_t their_answer = 0;
    std::string what;
    switch (random() % 9) {
      case 0:
      case 1: {
        // Where two things are wrong at once, either errno is right; so one at a time.
        const int fixed = random() % 3 == 0 ? MAP_FIXED_NOREPLACE : MAP_FIXED;
        const bool all_right = fixed == MAP_FIXED && odd == 0 && length != 0;
        const bool bad_file = all_right && random() % 16 == 0;
        const bool bad_offset = all_right && !bad_file && random() % 16 == 0;
        // No two mappings go on in the file where they go on in the window: to Linux they would be
        // one, to us they are two.
        const std::size_t serial = ++maps % (kFilePages / kWindowPages);
        const std::uint64_t offset = (serial * kWindowPages + first) * kPage + (bad_offset ? 1 : 0);
        // Each page of the file begins with a number, so a picture shows which page stands where.
        for (std::size_t i = 0; i < count; ++i) {
          const auto number = static_cast<unsigned char>((serial + first + i) % 64);
          const auto place = static_cast<off_t>((serial * kWindowPages + first + i) * kPage);
          for (const int file : {ours_file.get(), theirs_file.get()})
            ASSERT_EQ(pwrite(file, &number, 1, place), 1);
        }
        what = "mmap";
        our_answer = calls_->mmap(ours + at, length, protection, MAP_SHARED | fixed,
                                  bad_file ? 9999 : ours_file.get(), offset);
        if (our_answer > 0) our_answer -= static_cast<std::intptr_t>(ours);
        their_answer = linux_answer(reinterpret_cast<std::intptr_t>(
            mmap(reinterpret_cast<void*>(theirs + at), length, protection, MAP_SHARED | fixed,
                 bad_file ? 9999 : theirs_file.get(), static_cast<off_t>(offset))));
        if (their_answer > 0) their_answer -= static_cast<std::intptr_t>(theirs);
        break;
      }
      case 2:
        what = "munmap";
        our_answer = calls_->munmap(ours + at, length);
        their_answer = linux_answer(munmap(reinterpret_cast<void*>(theirs + at), length));
        break;
      case 3:
      case 4: {
        // At a fixed place or where it stands: anywhere else no two windows agree.
        const std::size_t to = random() % kWindowPages;
        const std::size_t more =
            1 + random() % std::min<std::size_t>(12, kWindowPages - std::max(first, to));
        constexpr std::array kFlags = {0, MREMAP_MAYMOVE | MREMAP_FIXED,
                                       MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, 0x10};
        int flags = kFlags[random() % kFlags.size()];
        const std::size_t new_length = (flags & MREMAP_DONTUNMAP) != 0 ? length : more * kPage;
        if (to + (length + kPage - 1) / kPage > kWindowPages) flags = 0;
        // Which of several mappings moves, and what is unmapped before it fails, differs from one
        // Linux to the next.
        const auto one = allocator_->query(ours + first * kPage, count * kPage);
        if (!one.ok()) flags = 0;
        // An old length of 0 is a second view, which fails elsewhere.
        if (length == 0) flags = 0;
        what = "mremap to " + std::to_string(new_length) + " flags " + std::to_string(flags) +
               " at " + std::to_string(to);
        our_answer = calls_->mremap(ours + at, length, new_length, flags, ours + to * kPage);
        if (our_answer > 0) our_answer -= static_cast<std::intptr_t>(ours);
        their_answer = linux_answer(
            syscall(SYS_mremap, theirs + at, length, new_length, flags, theirs + to * kPage));
        if (their_answer > 0) their_answer -= static_cast<std::intptr_t>(theirs);
        break;
      }
      case 5: {
        // Advice that leaves the mapping as it is.
        constexpr std::array kAdvice = {MADV_DONTNEED, MADV_WILLNEED, MADV_COLD, MADV_FREE, 7};
        const int advice = kAdvice[random() % kAdvice.size()];
        what = "madvise " + std::to_string(advice);
        our_answer = calls_->madvise(ours + at, length, advice);
        their_answer = linux_answer(syscall(SYS_madvise, theirs + at, length, advice));
        break;
      }
      case 6: {
        const int flags = static_cast<int>(random() % 9);
        what = "msync " + std::to_string(flags);
        our_answer = calls_->msync(ours + at, length, flags);
        their_answer = linux_answer(syscall(SYS_msync, theirs + at, length, flags));
        break;
      }
      default:
        what = "mprotect";
        our_answer = calls_->mprotect(ours + at, length, protection);
        their_answer =
            linux_answer(mprotect(reinterpret_cast<void*>(theirs + at), length, protection));
        break;
    }
    what += " of " + std::to_string(at) + ", " + std::to_string(length) + " at step " +
            std::to_string(step);
    ASSERT_EQ(our_answer, their_answer) << what;
    const std::string our_picture = picture(ours);
    ASSERT_EQ(our_picture, picture(theirs)) << what;
    ASSERT_EQ(book(ours), without_files(our_picture)) << what;
  }
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(calls_->munmap(ours, kWindowPages * kPage), 0);
  EXPECT_EQ(munmap(reinterpret_cast<void*>(theirs), kWindowPages * kPage), 0);
  EXPECT_EQ(allocator_->statistics().regions, 0u);
}
INSTANTIATE_TEST_SUITE_P(Seeds, LinuxDifferential, testing::Range(1u, 9u));

// Arguments at the ends of everything, where only the errno counts.
TEST_F(ProcessFixture, ErrnosOfOddArgumentsAgreeWithLinux) {
  const OwnedDescriptor file(memfd_of(4 * kPage));
  constexpr std::uintptr_t kLimit = std::uintptr_t{1} << 47;
  const std::uintptr_t addresses[] = {
      0, 1, kPage, kLimit - kPage, kLimit, kLimit + kPage, UINTPTR_MAX - kPage + 1, UINTPTR_MAX};
  const std::size_t lengths[] = {0,       kLimit, kLimit + kPage, SIZE_MAX - kPage, SIZE_MAX - 1,
                                 SIZE_MAX};
  for (const std::uintptr_t address : addresses) {
    for (const std::size_t length : lengths) {
      // Where Linux would do as it is told, the real call is not made.
      const bool harmless =
          length == 0 || address % kPage != 0 || address >= kLimit || length > kLimit - address;
      if (!harmless) continue;
      // Not through libc, where a sanitizer may have its own opinion.
      const auto answer = [](long result) { return result == -1 ? -errno : 0; };
      EXPECT_EQ(calls_->munmap(address, length), answer(syscall(SYS_munmap, address, length)))
          << std::hex << address << ' ' << length;
      EXPECT_EQ(calls_->mprotect(address, length, PROT_READ),
                answer(syscall(SYS_mprotect, address, length, PROT_READ)))
          << std::hex << address << ' ' << length;
      for (const int flag : {0, MAP_FIXED, MAP_FIXED_NOREPLACE}) {
        if (flag == 0 && length == 0 && address == 0) continue;
        const long theirs =
            syscall(SYS_mmap, address, length, PROT_READ, MAP_SHARED | flag, file.get(), 0L);
        ASSERT_EQ(theirs, -1);
        const int error = errno;
        EXPECT_EQ(calls_->mmap(address, length, PROT_READ, MAP_SHARED | flag, file.get(), 0),
                  -error)
            << std::hex << address << ' ' << length << " flag " << flag;
      }
    }
  }
}

}  // namespace
}  // namespace exclave
