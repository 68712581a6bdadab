#include "tools/command_line.hpp"

#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>

#include "tools/commands.hpp"
#include "tools/enclave_sealed_format.hpp"
#include "tools/exec_command.hpp"
#include "tools/failure.hpp"
#include "tools/temporary_output.hpp"

namespace exclave::tools {
namespace {

constexpr const char* kFooter = R"(
Exit codes:
  0  done, and verified
  1  a fault of exclave itself
  2  the command line makes no sense
  3  INPUT is missing, unreadable, empty, too large, or changed while it was read
  4  OUTPUT or the report cannot be written, or OUTPUT exists already
  5  tampering was found, or INPUT is no intact sealed file
  6  the key file is missing, malformed, open to others, or not the right one
  7  the host refuses to work or does not answer

OUTPUT gets its name only when it is complete and verified.)";

constexpr const char* kSealExample = R"(
Example:
  exclave keygen ./key
  exclave seal --key-file ./key --report seal.html photos.tar photos.sealed)";

constexpr const char* kUnsealExample = R"(
Example:
  exclave unseal --key-file ./key photos.sealed photos.tar)";

constexpr const char* kKeygenExample = R"(
Example:
  exclave keygen ./key)";

constexpr const char* kExecExample = R"(
Its private memory lies in the enclave's range, shared mappings of what --allow-device names outside.
Exit codes: the program's own; 127 it is not there, 126 it cannot be run, 2 the command line makes no
sense, 1 a fault of exclave itself.

Examples:
  exclave exec --trace -- ls -l
  exclave exec --stats --allow-device 'anon_inode:[io_uring]' -- fio job.fio)";

// For commands that hold keys.
void keep_secrets_and_tidy() {
  // No core file: it would hold keys and plaintext.
  const rlimit none{0, 0};
  (void)::setrlimit(RLIMIT_CORE, &none);
  // Too large a file and a closed pipe are errors to report, not reasons to die without a word.
  (void)::signal(SIGXFSZ, SIG_IGN);
  (void)::signal(SIGPIPE, SIG_IGN);
  remove_temporaries_on_signals();
}

void add_common(CLI::App& command, CommandOptions& options) {
  static const std::map<std::string, Engine> engines{
      {"auto", Engine::kAuto}, {"uring", Engine::kUring}, {"pread", Engine::kPread}};
  command.add_option("INPUT", options.input)->required();
  command.add_option("OUTPUT", options.output)->required();
  command.add_option("--key-file", options.key_file,
                     "The key, as `exclave keygen` makes it (default: ~/.config/exclave/key)");
  command.add_option("--report", options.report,
                     "Also write the report as one HTML page, in place of what stands there");
  command.add_flag("--hostile", options.hostile,
                   "Run beside a process that writes random bytes over the I/O memory");
  command.add_option("--io", options.engine, "How the host moves the bytes: auto, uring or pread")
      ->transform(CLI::CheckedTransformer(engines).description(""))
      ->type_name("ENGINE");
  command.add_option("--depth", options.depth, "Most transfers in flight, 1 to 64 (8)")
      ->check(CLI::Range(1U, kMaxDepth).description(""))
      ->type_name("N");
  command.add_flag("--force", options.force, "Replace OUTPUT if it exists");
}

// Two lines from CLI11, with a pointer to --help, become one.
std::string one_line(const std::string& text) {
  const std::size_t end = text.find('\n');
  return end == std::string::npos ? text : text.substr(0, end);
}

int fail(ExitCode code, const std::string& line) {
  (void)std::fprintf(stderr, "exclave: %s\n", line.c_str());
  return static_cast<int>(code);
}

}  // namespace

int run_command_line(int argc, char** argv) {
  CLI::App app("Seals files through memory that is not trusted", "exclave");
  app.set_version_flag("--version", "exclave " EXCLAVE_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);

  CommandOptions options;
  CLI::App* const seal =
      app.add_subcommand("seal", "Encrypt INPUT to OUTPUT; only ciphertext leaves trusted memory");
  add_common(*seal, options);
  std::uint64_t block_bytes = options.block_bytes;
  seal->add_option("--block-size", block_bytes,
                   "Bytes of a sealed block, 4K to 16M, a multiple of 4K (1M)")
      ->transform(CLI::AsSizeValue(false).description(""))
      ->type_name("SIZE");
  seal->add_flag("--new-key", options.new_key, "Make the key file if it is missing");
  seal->footer(kSealExample);

  CLI::App* const unseal =
      app.add_subcommand("unseal", "Verify and decrypt INPUT, a sealed file, to OUTPUT");
  add_common(*unseal, options);
  unseal->footer(kUnsealExample);

  CLI::App* const keygen = app.add_subcommand("keygen", "Make a new key that only you can read");
  std::string new_key_file;
  keygen->add_option("KEYFILE", new_key_file, "Where to (default: ~/.config/exclave/key)");
  keygen->footer(kKeygenExample);

  CLI::App* const exec =
      app.add_subcommand("exec", "Run PROGRAM with its memory split between enclave and outside");
  ExecOptions exec_options;
  exec->add_option("--elrange", exec_options.range_bytes,
                   "The enclave's range, a power of two from 256M to 16T (the most that fits)")
      ->transform(CLI::AsSizeValue(false).description(""))
      ->type_name("SIZE");
  exec->add_option("--allow-device", exec_options.allowed,
                   "Shared mappings of this file, device or folder lie outside; may be repeated")
      ->type_name("PATH")
      ->allow_extra_args(false);
  exec->add_flag("--trace", exec_options.trace,
                 "Tell each memory call, and where it went, on stderr or in FILE (--trace=FILE)")
      ->type_name("[=FILE]");
  exec->add_flag("--stats", exec_options.stats, "Tell at each process' end what it had");
  exec->add_option("PROGRAM", exec_options.program, "The program, and its arguments, after --")
      ->type_name("ARGS...");
  exec->footer(kExecExample);

  // What stands after -- is the program's, whatever it looks like.
  const bool is_exec = argc > 1 && std::string_view(argv[1]) == "exec";
  char** const dashes =
      is_exec ? std::find(argv, argv + argc, std::string_view("--")) : argv + argc;
  try {
    app.parse(static_cast<int>(dashes - argv), argv);
    if (exec->parsed()) {
      exec_options.program.insert(exec_options.program.end(),
                                  dashes == argv + argc ? dashes : dashes + 1, argv + argc);
      if (exec_options.program.empty()) {
        return fail(ExitCode::kUsage, "exec: PROGRAM is required (try --help)");
      }
      if (exec_options.trace == "true") exec_options.trace = "-";
      return run_exec(exec_options);
    }
    keep_secrets_and_tidy();
    if (!valid_block_bytes(block_bytes)) {
      return fail(ExitCode::kUsage, "--block-size: a multiple of 4096 from 4096 to 16777216");
    }
    options.block_bytes = static_cast<std::uint32_t>(block_bytes);
    if (seal->parsed()) {
      run_seal(options);
    } else if (unseal->parsed()) {
      run_unseal(options);
    } else {
      run_keygen(new_key_file);
    }
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      return app.exit(error);  // --help and --version
    }
    return fail(ExitCode::kUsage, one_line(error.what()) + " (try --help)");
  } catch (const Failure& failure) {
    return fail(failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    return fail(ExitCode::kInternal, "out of memory");
  } catch (const std::exception& error) {
    return fail(ExitCode::kInternal, error.what());
  }
}

}  // namespace exclave::tools
