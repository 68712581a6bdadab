// The program's memory inside the enclave's range: the inside half of the memory calls, and the
// seam for another manager of it.
//
// The kernel does the mapping, within a window that stays reserved (PROT_NONE) where nothing is
// mapped; a set of pages says what is, because the kernel cannot tell a hole from reserved space.
// It is asked under the lock, so that the two agree. Answers are those of the system calls.
#pragma once

#include <atomic>

#include "exclave/port.hpp"
#include "loader/lock.hpp"
#include "loader/page_set.hpp"
#include "loader/policy.hpp"

namespace exclave::loader {

class InsideMemory {
 public:
  // zeroes: PageSet::bytes_for(window.size) of trusted memory. Places are searched for from below
  // spread_bytes of the window's end.
  void open(Extent window, void* zeroes, const Policy& policy, std::size_t spread_bytes) noexcept;

  // ---- The exclave_enclave_memory table ----
  std::intptr_t map(std::uintptr_t address, std::size_t size, int protection, int flags,
                    int descriptor, std::uint64_t offset) noexcept;
  int unmap(std::uintptr_t address, std::size_t size) noexcept;
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept;
  bool lies_outside(int protection, int flags, int descriptor, std::uint64_t offset) noexcept;

  // ---- Calls that the table has not ----
  // Old and new place inside.
  std::intptr_t remap(std::uintptr_t address, std::size_t old_size, std::size_t new_size, int flags,
                      std::uintptr_t new_address) noexcept;
  void start_break(std::uintptr_t start) noexcept;
  // As the system call: the break as it is then.
  std::intptr_t set_break(std::uintptr_t wanted) noexcept;
  // A System V segment of so many bytes. Inside as all that is not allowed outside.
  std::intptr_t attach_segment(int id, std::uintptr_t address, std::size_t size,
                               int flags) noexcept;
  int detach_segment(std::uintptr_t address, std::size_t size) noexcept;
  // Makes a system call that names a range for each run of mapped pages in the range, as
  // visit(Extent), until one answers with an error. False: there are holes.
  template <class F>
  bool each_run(Extent range, F visit) noexcept {
    bool whole = true;
    while (!range.empty()) {
      Extent part;
      bool mapped = false;
      {
        const Locked guard(lock_);
        const Extent window = pages_.window();
        // Beside the window lie the books: a hole, as seen from here.
        if (!window.contains(range.base)) return false;
        const std::size_t size =
            range.end() <= window.end() ? range.size : window.end() - range.base;
        part = {range.base, pages_.run_at({range.base, size})};
        mapped = pages_.has(range.base);
      }
      if (!mapped) {
        whole = false;
      } else if (!visit(part)) {
        return whole;
      }
      range = {part.end(), range.size - part.size};
    }
    return whole;
  }

  Extent window() const noexcept { return pages_.window(); }
  struct Picture {
    std::size_t bytes, peak_bytes, runs, shared_maps;
  };
  Picture picture() noexcept;

  // Around fork, on the thread that forks: the child finds the books whole.
  void before_fork() noexcept { lock_.lock(); }
  void after_fork() noexcept { lock_.unlock(); }

 private:
  bool is_in_window(std::uintptr_t address, std::size_t size) const noexcept;
  std::uintptr_t place_locked(std::uintptr_t hint, std::size_t size, std::size_t alignment,
                              int flags) noexcept;
  void note_mapped_locked(Extent range) noexcept;
  int free_locked(Extent range) noexcept;
  void mend_locked(Extent range) noexcept;
  std::intptr_t move_locked(Extent from, std::size_t new_size, int flags, Extent to) noexcept;
  bool grow_locked(Extent from, std::size_t new_size) noexcept;

  Lock lock_;
  PageSet pages_;  // under lock_
  const Policy* policy_ = nullptr;
  std::uintptr_t search_from_ = 0;
  std::uintptr_t break_start_ = 0, break_ = 0;  // under lock_
  std::size_t peak_pages_ = 0;                  // under lock_
  std::atomic<std::size_t> shared_maps_{0};
};

}  // namespace exclave::loader
