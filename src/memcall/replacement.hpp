// A place outside that is made wholly the application's, so that the host may be told to replace
// it.
#pragma once

#include "memcall/outside.hpp"

namespace exclave::memcall {

// Replaces what stands at a fixed address, all at once or not at all. What stands there is a hole
// from now on, with its place reserved; the gaps are filled with inaccessible memory, which fails
// where somebody else's stands. Then every page of the target is ours, and the host may be told to
// replace it, once the book of what comes holds the place.
class Replacement {
 public:
  Replacement(AllocatorCore& core, AllocatorCore::Gate& gate) noexcept : core_(core), gate_(gate) {}
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;
  // What was not replaced stands again.
  ~Replacement();

  enum class Fill : bool { kIfNeeded, kAlways };
  // 0 or a negative errno. kIfNeeded: free ground stays free, and needed() says so.
  int begin(Extent target, Fill fill) noexcept;
  // The same, wherever the host has room.
  int begin_anywhere(std::size_t size) noexcept;
  bool needed() const noexcept { return chain_ != nullptr; }
  Extent target() const noexcept { return target_; }
  // The book of what the host is about to put there, so that nothing can fail afterwards: it stands
  // from now on, nothing is promised of it until done(), and nobody else may change it. 0; -ENOMEM;
  // -EPERM where something came to stand in a gap, which was a lie.
  int hold(const Result<Region*>& made) noexcept;
  // The host has replaced all of it.
  void done(Protection protection) noexcept;

 private:
  int fill(Extent gap) noexcept;
  Result<Extent> map_filler(Extent place, int flags, int* error) noexcept;
  // Up to the first error.
  template <class F>
  int for_each_gap(F visit) noexcept;

  AllocatorCore& core_;
  AllocatorCore::Gate& gate_;
  Extent target_{};
  Region* chain_ = nullptr;  // what stood there, each place reserved or under arriving_
  Region* arriving_ = nullptr;
  std::uintptr_t filled_to_ = 0;  // the gaps below are filled
};

// The host's mapping enters the books. -EPERM where something stands there, which was a lie;
// -ENOMEM.
int enter_mapping(AllocatorCore& core, Extent range, const AttachOptions& options) noexcept;

}  // namespace exclave::memcall
