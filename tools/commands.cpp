#include "tools/commands.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include "sim/neighbour.hpp"
#include "tools/enclave_key_file.hpp"
#include "tools/enclave_sealer.hpp"
#include "tools/enclave_trusted_file.hpp"
#include "tools/enclave_unsealer.hpp"
#include "tools/failure.hpp"
#include "tools/file_place.hpp"
#include "tools/host_linux.hpp"
#include "tools/run_recorder.hpp"
#include "tools/run_report.hpp"
#include "tools/temporary_output.hpp"

namespace exclave::tools {
namespace {

// The attacker's pace: over every byte of the pool again and again, but slowly enough that some
// blocks get through, so that the report can show that exactly the others are told.
constexpr std::uint32_t kNeighbourRestMicroseconds = 100;

// The page that --report asks for. Opened before the work, so that a bad path costs none.
class Page {
 public:
  explicit Page(const CommandOptions& options) {
    if (options.report.empty()) {
      return;
    }
    file_.emplace(options.report, TemporaryOutput::Existing::kIsReplaced);
  }

  void write(const RunReport& report, const std::vector<FileId>& in_use) {
    if (!file_) {
      return;
    }
    const std::string html = html_report(report);
    write_trusted(file_->descriptor(), file_->path(),
                  {reinterpret_cast<const std::uint8_t*>(html.data()), html.size()});
    file_->commit(in_use);
  }

 private:
  std::optional<TemporaryOutput> file_;
};

// The attacker of --hostile, on the pool's memory. Started before there is a key, for it is forked
// from this process.
class Attacker {
 public:
  explicit Attacker(const LinuxHost& host) {
    sim::Neighbour::Options options;
    options.descriptor = host.pool().descriptor();
    options.rest_microseconds = kNeighbourRestMicroseconds;
    neighbour_ = sim::Neighbour::start(options);
    if (!neighbour_ || !neighbour_->add(0, host.pool().extent().size)) {
      throw Failure(ExitCode::kHost, "the hostile neighbour cannot be started");
    }
  }
  // Ends it. The bytes that it wrote.
  std::uint64_t stop() {
    neighbour_->stop();
    return neighbour_->bytes_written();
  }

 private:
  std::unique_ptr<sim::Neighbour> neighbour_;
};

// The options with the key file that they mean by saying nothing. Throws Failure(kUsage) when what
// is to be written is also to be read, or written twice.
CommandOptions resolved(CommandOptions options) {
  if (options.key_file.empty()) {
    options.key_file = default_key_file();
  }
  const auto file = [](const char* role, const std::string& path) {
    return RunFile{role, path, place_of(path)};
  };
  std::vector<RunFile> written{file("OUTPUT", options.output),
                               {"standard output", "standard output", place_of(STDOUT_FILENO)}};
  if (!options.report.empty()) {
    written.insert(written.begin(), file("the report", options.report));
  }
  refuse_same_files(written, {file("INPUT", options.input), file("the key", options.key_file)});
  return options;
}

Key key_of(const CommandOptions& options, std::vector<FileId>& in_use) {
  const std::string& path = options.key_file;
  if (options.new_key && ::access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    create_key(path);
  }
  in_use.emplace_back();
  return load_key(path, &in_use.back());
}

TemporaryOutput::Existing existing_output(const CommandOptions& options) {
  return options.force ? TemporaryOutput::Existing::kIsReplaced : TemporaryOutput::Existing::kStays;
}

UniqueFd open_sealed(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) {
    throw Failure(ExitCode::kInput, path + ": " + errno_text(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Failure(ExitCode::kInput, path + (S_ISDIR(status.st_mode) ? ": is a directory"
                                                                    : ": is not a regular file"));
  }
  return file;
}

std::string hex(const Digest& digest) {
  std::string text;
  for (const std::uint8_t byte : digest) {
    char digits[3];
    (void)std::snprintf(digits, sizeof digits, "%02x", byte);
    text += digits;
  }
  return text;
}

IoOptions io_options(const CommandOptions& options, std::uint32_t block_bytes) {
  return {options.engine, options.depth, block_bytes};
}

void describe(RunReport& report, const CommandOptions& options, const SealedLayout& layout,
              EnclaveSession& session) {
  report.input = options.input;
  report.output = options.output;
  report.plaintext_bytes = layout.plaintext_bytes;
  report.sealed_bytes = layout.file_bytes;
  report.blocks = layout.blocks;
  report.block_bytes = layout.block_bytes;
  report.engine = session.io().name();
  report.depth = session.io().depth();
  report.notes = session.notes();
  report.hostile = options.hostile;
}

// Ends the enclave side in good order and completes the report. What it says of memory is what the
// books said.
void conclude(RunReport& report, RunRecorder& recorder, EnclaveSession& session,
              const LinuxHost& host, std::optional<Attacker>& attacker) {
  recorder.finish(report);
  report.at_end = session.heap_map();
  report.pool_blocks = session.pool().blocks_taken();
  // The attacker writes on while everything is given back.
  report.ending = session.close();
  if (attacker) {
    report.scribbled_bytes = attacker->stop();
  }
  report.attacks = session.attacks();
  const Statistics statistics = session.allocator().statistics();
  report.host_calls = host.calls();
  for (const auto& [kind, count] : {std::pair("memory: reserve", statistics.host_reserve_calls),
                                    std::pair("memory: release", statistics.host_release_calls),
                                    std::pair("mmap", statistics.host_map_calls),
                                    std::pair("munmap", statistics.host_unmap_calls),
                                    std::pair("mprotect", statistics.host_protect_calls)}) {
    if (count != 0) {
      report.host_calls.emplace_back(kind, count);
    }
  }
}

// Gives OUTPUT its name, if the run was clean; then prints the report. in_use: what the run has
// read. Names may have been changed since they were compared, and a file system may take two of
// them for one.
void deliver(const RunReport& report, TemporaryOutput& output, Page& page,
             std::vector<FileId> in_use) {
  const bool sound = report.ending_as_it_should();
  const bool clean = report.tampered.clean();
  if (sound && clean) {
    const std::optional<FileId> made = file_id(output.descriptor());
    output.commit(in_use);
    in_use.push_back(*made);
  }
  const std::string text = text_report(report);
  const bool printed =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  page.write(report, in_use);
  if (!sound) {
    throw Failure(ExitCode::kInternal, "the allocator gave a wrong answer at the end; " +
                                           report.output + " was not written");
  }
  if (!clean) {
    const std::string where =
        report.command == "seal" ? "on the way to " + report.output : report.input;
    throw Failure(ExitCode::kTampered, where + ": tampered with: " + report.tampered.text(4) +
                                           " of " + std::to_string(report.blocks) + "; " +
                                           report.output + " was not written");
  }
  if (!printed) {
    throw Failure(ExitCode::kOutput,
                  "the report cannot be printed; " + report.output + " is complete");
  }
}

}  // namespace

void run_seal(const CommandOptions& given) {
  const CommandOptions options = resolved(given);
  TrustedInput input(options.input, kMaxPlaintextBytes);
  std::vector<FileId> in_use{*file_id(input.descriptor())};
  TemporaryOutput output(options.output, existing_output(options));
  Page page(options);

  LinuxHost host(output.descriptor());
  EnclaveSession session(host);
  session.open_io(io_options(options, options.block_bytes));
  std::optional<Attacker> attacker;
  if (options.hostile) {
    attacker.emplace(host);
  }

  RunReport report;
  report.command = "seal";
  RunRecorder recorder(session);
  Sealer sealer(session, key_of(options, in_use), input, options.block_bytes, options.output);
  describe(report, options, sealer.layout(), session);
  sealer.seal(recorder);
  report.tampered = sealer.verify(recorder);
  report.digest = hex(sealer.digest());
  report.staging_bytes = sealer.staging_bytes();
  conclude(report, recorder, session, host, attacker);
  deliver(report, output, page, std::move(in_use));
}

void run_unseal(const CommandOptions& given) {
  const CommandOptions options = resolved(given);
  const UniqueFd sealed = open_sealed(options.input);
  std::vector<FileId> in_use{*file_id(sealed.get())};
  LinuxHost host(sealed.get());
  EnclaveSession session(host);
  Unsealer unsealer(session, options.input);
  TemporaryOutput output(options.output, existing_output(options));
  Page page(options);
  session.open_io(io_options(options, unsealer.layout().block_bytes));
  std::optional<Attacker> attacker;
  if (options.hostile) {
    attacker.emplace(host);
  }

  RunReport report;
  report.command = "unseal";
  RunRecorder recorder(session);
  describe(report, options, unsealer.layout(), session);
  report.tampered =
      unsealer.unseal(key_of(options, in_use), output.descriptor(), options.output, recorder);
  report.staging_bytes = unsealer.staging_bytes();
  conclude(report, recorder, session, host, attacker);
  deliver(report, output, page, std::move(in_use));
}

void run_keygen(const std::string& key_file) {
  const std::string path = key_file.empty() ? default_key_file() : key_file;
  create_key(path);
  std::printf("new key: %s\n", path.c_str());
}

}  // namespace exclave::tools
