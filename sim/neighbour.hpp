// A hostile process that shares our untrusted memory and writes random bytes over it, all the time.
//
// It is forked without exec and makes plain system calls only, so it may be started while other
// threads run. It closes every descriptor but the shared memory's, and ends when its parent does,
// within a tenth of a second. (Not by PR_SET_PDEATHSIG, which fires when the thread that forked
// ends, not the process.) Thread safety: methods may be called from any thread, one at a time.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "exclave/process_port.hpp"

namespace exclave::sim {

class Neighbour {
 public:
  enum class Mode : std::uint8_t {
    kEverything,   // sweeps over every byte of every extent, again and again
    kRandomPages,  // one page here, one there
  };
  struct Options {
    int descriptor = -1;  // of a memfd; only needed while start runs
    Mode mode = Mode::kEverything;
    std::uint64_t seed = 1;
    // Rest after each page. 0: as fast as it can, on a processor of its own.
    std::uint32_t rest_microseconds = 0;
  };
  static constexpr std::size_t kMaxExtents = 4096;

  // Null when there is no process or no shared page to be had. It begins with no extents, so with
  // nothing to write to.
  static std::unique_ptr<Neighbour> start(const Options& options);
  // One for what this port's host_reserve gives (Options::shared). Extents are still to be added.
  static std::unique_ptr<Neighbour> start(ProcessPort& port, std::uintptr_t any_reserved_address,
                                          Options options);
  ~Neighbour();
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

  // From now on these bytes of the file are written to. false: too many extents, not whole pages,
  // or it is gone.
  bool add(std::uint64_t offset, std::size_t bytes);
  bool add(const ProcessPort::SharedBacking& backing) { return add(backing.offset, backing.bytes); }
  // After it returns nothing is written there any more. Ranges that were not added are ignored.
  void remove(std::uint64_t offset, std::size_t bytes);
  void remove(const ProcessPort::SharedBacking& backing) { remove(backing.offset, backing.bytes); }

  // After pause returns nothing is written, until resume.
  void pause();
  void resume();
  // Ends the process and reaps it. Also done on destruction.
  void stop();

  // Waits until this many more bytes were written. false: it is gone or paused.
  bool wait_for_bytes(std::uint64_t more) const;
  std::uint64_t bytes_written() const noexcept;
  bool alive() const noexcept;
  pid_t process() const noexcept { return process_; }

 private:
  struct Control;
  class Scribbler;

  Neighbour(Control* control, pid_t process) noexcept : control_(control), process_(process) {}
  void rest_locked();
  void work_locked();

  Control* control_;
  mutable std::mutex mutex_;
  mutable pid_t process_;
  mutable bool reaped_ = false;
  bool paused_ = false;  // guarded by mutex_
};

}  // namespace exclave::sim
